"""The picture of the components is the one that the import graph draws."""

import re

import pytest

from knowalledge.quota.commands import ReservationOutcome
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.replica import ReplicaState
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


def test_the_diagrams_of_states_have_the_states_of_the_code() -> None:
    reservation, replica = re.findall(
        r"```mermaid\nstateDiagram-v2\n(.*?)```", components.PAGE.read_text(), re.S
    )
    assert set(re.findall(r"--> (\w+)", replica)) == {it.name.title() for it in ReplicaState}
    assert {it.name.title() for it in ReservationOutcome} <= set(re.findall(r"Held --> (\w+)", reservation))
    left = re.search(r"Queued --> Left: (.+)", reservation)
    assert left is not None
    others = {it.value.replace("_", " ") for it in QueueOutcome} - {"granted"}
    assert set(left[1].split(", ")) == others
