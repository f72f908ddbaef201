"""Decision records: numbered without gaps, in one format, all in the index, and named by numbers that exist."""

import re
from datetime import date
from itertools import pairwise
from pathlib import Path

import pytest

from tests.repo.test_links import ROOT, tracked

FOLDER = ROOT / "docs/adr"
RECORDS = sorted(it for it in FOLDER.glob("*.md") if it.name != "README.md")
HEAD = re.compile(
    r"# (\d+)\. (.+)\n\n- Status: (accepted|proposed|superseded by \[ADR \d+\]\(.+\))(?:; .+)?\n- Date: (\S+)\n"
)
SECTIONS = ["Context", "Decision", "Consequences", "Exit"]


def head(record: Path) -> tuple[int, str, str, date]:
    found = HEAD.match(record.read_text())
    assert found is not None, f"{record.name} begins otherwise"
    return int(found[1]), found[2], found[3].partition(" ")[0], date.fromisoformat(found[4])


def test_the_numbers_have_no_gap() -> None:
    assert [int(it.name.partition("-")[0]) for it in RECORDS] == list(range(1, len(RECORDS) + 1))


@pytest.mark.parametrize("record", RECORDS, ids=lambda it: it.stem)
def test_a_record_has_the_one_format(record: Path) -> None:
    number, title, _, _ = head(record)
    assert record.name.startswith(f"{number:04}-")
    assert not title.endswith(".")
    text = record.read_text()
    assert re.findall(r"^## (.+)$", text, re.M) == SECTIONS
    parts = re.split(r"^## .+$", text, flags=re.M)
    assert all(part.strip() for part in parts)


def test_the_index_has_every_record_with_its_title_and_status() -> None:
    rows = re.findall(
        r"^\| (\d+) \| \[(.+?)\]\((.+?)\) \| (\w+) \|", (FOLDER / "README.md").read_text(), re.M
    )
    expected = [
        (str(number), title, it.name, status) for it in RECORDS for number, title, status, _ in [head(it)]
    ]
    assert rows == expected


def test_a_record_is_not_dated_before_the_one_that_it_follows() -> None:
    assert all(earlier <= later for earlier, later in pairwise(head(it)[3] for it in RECORDS))


def test_a_record_that_is_named_anywhere_exists() -> None:
    named = {
        (str(file.relative_to(ROOT)), int(number))
        for file in tracked("*.py", "*.md", "*.lua", "*.sh", "*.yml", "*.yaml", "*.conf", "Makefile")
        if file.name != "CHANGELOG.md"
        for number in re.findall(r"\bADR (\d+)", file.read_text())
    }
    assert named
    assert {it for it in named if not 1 <= it[1] <= len(RECORDS)} == set()


def test_a_link_to_a_record_names_its_number() -> None:
    wrong = [
        (str(page.relative_to(ROOT)), number, path)
        for page in tracked("*.md")
        for number, path in re.findall(r"\[ADR (\d+)\]\(([^)]*\d{4}-[^)]*)\)", page.read_text())
        if f"{int(number):04}-" not in path
    ]
    assert wrong == []
