"""Documents have one sentence a line, so that a change shows the sentence that changed."""

import re
from pathlib import Path

import pytest

from tests.repo.test_links import PAGES, ROOT, prose

# A sentence's end, and the beginning of the next on the same line.
JOINED = re.compile(r"""(?<!\be\.g)(?<!\bi\.e)(?<!\bcf)(?<!\bvs)[.!?]["')*`\]]* +["'(*`\[]*[A-Z]""")
ENDED = re.compile(r"""[.!?:;]["')*`\]>]*$""")
SKIPPED = re.compile(r"\||#|<!--")  # tables, headings, comments
# What begins a block of its own: a list's item, a heading, a table, a quotation, a comment, a rule, a fence.
BLOCK = re.compile(r" *([-*] |\d+\. |#|\||>|<!--|---|```|    )")


def faults(text: str) -> list[str]:
    """Lines with more than one sentence, and lines that stop within one."""
    raw = text.splitlines()
    lines = ["" if SKIPPED.match(it) else re.sub(r"^ *([-*]|\d+\.) +", "", it) for it in raw]
    found = []
    for index, line in enumerate(lines):
        if JOINED.search(re.sub(r"`[^`]*`", "`x`", line)):
            found.append(line)
        following = raw[index + 1] if index + 1 < len(raw) else ""
        plain = line and not BLOCK.match(line) and not raw[index].startswith("    ")
        if plain and following.strip() and not BLOCK.match(following) and not ENDED.search(line):
            found.append(line)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda it: str(it.relative_to(ROOT)))
def test_a_page_has_one_sentence_a_line(page: Path) -> None:
    assert faults(prose(page)) == []


@pytest.mark.parametrize(
    "text",
    [
        "One. Two.",
        "- It ends here. `make` begins here: Yes. No.",
        "A sentence that\ngoes on.",
        "1. One\n   goes on.",
    ],
)
def test_two_sentences_in_a_line_and_one_in_two_are_found(text: str) -> None:
    assert faults(text) != []


@pytest.mark.parametrize(
    "text",
    [
        "One.\nTwo!\n(Three.)",
        "1. One.\n2. Two, e.g. Redis.",
        "See:\n\n- one\n- two",
        "| a. B | c |",
        "# A title\n\nText.",
    ],
)
def test_one_sentence_a_line_is_no_fault(text: str) -> None:
    assert faults(text) == []
