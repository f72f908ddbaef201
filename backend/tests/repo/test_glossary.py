"""The glossary's words are those of the code."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "backend/src/knowalledge"
ROWS = re.findall(
    r"^\| ([^|]+) \| ([^|]+) \| ([^|]+) \| ?([^|]*) ?\|$", (ROOT / "docs/glossary.md").read_text(), re.M
)
TERMS = [row for row in ROWS if row[0] not in ("term", "---")]


def test_every_name_that_the_glossary_gives_is_in_the_code() -> None:
    words = {
        word
        for pattern in ("*.py", "*.lua")
        for file in SOURCE.rglob(pattern)
        for word in re.findall(r"\w+", file.read_text())
    }
    given = {(term, name) for term, _, names, _ in TERMS for name in re.findall(r"`(\w+)`", names)}
    assert {(term, name) for term, name in given if name not in words} == set()


def test_every_term_has_one_sentence_a_name_in_the_code_and_a_source() -> None:
    assert len(TERMS) > 40
    for term, meaning, names, source in TERMS:
        assert source.strip(), term
        assert meaning.strip().endswith("."), term
        assert not re.search(r"\. [A-Z]", meaning), term
        assert re.search(r"`\w+`", names), term


def test_a_term_stands_once() -> None:
    terms = [row[0].strip() for row in TERMS]
    assert len(terms) == len(set(terms))
