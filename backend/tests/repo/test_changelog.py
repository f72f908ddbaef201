"""Fragments become the notes of a release, and none is lost."""

import re
from datetime import date
from pathlib import Path

import pytest

from knowalledge import __version__
from tools import changelog

ROOT = Path(__file__).parents[3]
INTRO = "# Changelog\n\nIntro.\n\n"
DAY = date(2027, 1, 2)


def test_a_release_gets_its_items_by_kind_above_the_older_releases() -> None:
    old = INTRO + "## 1.0.0 - 2026-01-01\n\n### Added\n\n- First.\n"
    new = changelog.merge(old, "1.1.0", DAY, {"fixed": ["A fault."], "added": ["One.\nTwo.\n", "Three."]})
    section = "## 1.1.0 - 2027-01-02\n\n### Added\n\n- One.\n  Two.\n- Three.\n\n### Fixed\n\n- A fault.\n\n"
    assert new == INTRO + section + old.removeprefix(INTRO)


def test_a_release_that_is_prepared_again_keeps_its_items_and_gets_the_new_day() -> None:
    once = changelog.merge(
        INTRO, "1.0.0", date(2026, 1, 1), {"added": ["One.\nTwo."], "security": ["Three."]}
    )
    twice = changelog.merge(once, "1.0.0", DAY, {"added": ["Four."]})
    section = "## 1.0.0 - 2027-01-02\n\n### Added\n\n- One.\n  Two.\n- Four.\n\n### Security\n\n- Three.\n"
    assert twice == INTRO + section


@pytest.mark.parametrize("name", ["a.md", "a.new.md", ".fixed.md", "a.b.fixed.md", "a.fixed.txt"])
def test_a_fragment_with_another_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(ValueError, match=re.escape(name)):
        changelog.fragments(tmp_path)


def test_every_fragment_here_has_a_kind_and_a_text() -> None:
    assert all(path.read_text().strip() for path in changelog.fragments(ROOT / "changelog.d"))


def test_the_newest_notes_are_those_of_the_current_version() -> None:
    assert re.findall(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(), re.M)[0] == __version__
