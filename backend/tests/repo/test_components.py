"""The picture of the components is the one that the import graph draws."""

import pytest

from tools import components
from tools.components import reachable, reduced

DIAMOND = {"app": {"web", "db", "core"}, "web": {"core"}, "db": {"core"}, "core": set[str]()}


def test_the_page_shows_the_imports_of_the_code() -> None:
    page = components.PAGE.read_text()
    assert page == components.rendered(page), "run: make reference"


def test_an_arrow_that_others_imply_is_left_out() -> None:
    assert reduced(DIAMOND) == DIAMOND | {"app": {"web", "db"}}


def test_what_can_be_reached_stays_the_same() -> None:
    graph = components.imports()
    fewer = reduced(graph)
    assert {part: reachable(fewer, part) for part in graph} == {
        part: reachable(graph, part) for part in graph
    }
    assert sum(map(len, fewer.values())) < sum(map(len, graph.values()))


def test_a_circle_is_drawn_with_all_its_arrows() -> None:
    circle = {"a": {"b", "c"}, "b": {"a", "c"}, "c": set[str]()}
    assert reduced(circle)["a"] >= {"b"}
    assert reduced(circle)["b"] >= {"a"}
    assert "c" in reduced(circle)["a"] | reduced(circle)["b"]


def test_a_page_without_a_place_for_the_picture_is_an_error() -> None:
    with pytest.raises(ValueError, match="no line"):
        components.rendered("# Architecture\n")
