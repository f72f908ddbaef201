"""The recipes of CONTRIBUTING.md name files that exist, and no more of them than a change may touch."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
SOURCE = ROOT / "backend/src/knowalledge"
_RECIPE = re.compile(r"^### An? ([\w ]+) \([^\n]+\)\n(.*?)(?=^##)", re.M | re.S)
RECIPES = dict(_RECIPE.findall((ROOT / "CONTRIBUTING.md").read_text()))
# The most files written by hand, tests left out.
MOST = {
    "provider": 4,
    "setting": 3,
    "metric": 3,
    "queue outcome": 3,
    "route": 4,
    "error": 2,
    "cache layer": 3,
    "capability": 3,
}


def test_every_typical_change_has_its_recipe() -> None:
    assert set(RECIPES) == set(MOST)


@pytest.mark.parametrize("title", MOST)
def test_a_recipe_touches_no_more_files_than_it_may(title: str) -> None:
    rows = re.findall(r"^\| (?!file \||---)(.+?) \|", RECIPES[title], re.M)
    assert 1 <= len(rows) <= MOST[title]


@pytest.mark.parametrize("title", MOST)
def test_every_file_that_a_recipe_names_exists(title: str) -> None:
    named = re.findall(r"`([\w/.]+/[\w.]*)`", RECIPES[title])
    real = [it for it in named if "NAME" not in it]
    assert real
    assert [it for it in real if not (SOURCE / it).exists() and not (ROOT / it).exists()] == []
