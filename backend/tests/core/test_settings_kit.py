"""How capabilities declare settings, whatever the settings are."""

from dataclasses import dataclass

import pytest

from knowalledge.core.parsers import non_negative, text
from knowalledge.core.settings import compose, declared_in, setting


@dataclass(frozen=True)
class Lamp:
    watts: int = setting(non_negative, 5, "What it takes.")
    key: str = setting(text, "", "What unlocks it.", secret=True)


@dataclass(frozen=True, kw_only=True)
class House:
    floors: int
    name: str = setting(text, "home", "What it is called.")
    lamp: Lamp


def test_a_declaration_has_its_path_and_all_that_a_reference_says_of_it() -> None:
    rows = {it.key: it for it in declared_in(House)}
    assert list(rows) == ["name", "lamp.watts", "lamp.key"]
    assert (rows["lamp.watts"].default, rows["lamp.watts"].description) == (5, "What it takes.")
    assert [it.secret for it in rows.values()] == [False, False, True]


def test_sections_are_composed_from_values_by_key() -> None:
    house = compose(House, {"name": "hut", "lamp.watts": 40, "lamp.key": "k"}, floors=2)
    assert house == House(floors=2, name="hut", lamp=Lamp(40, "k"))
    assert {it.key: it.value_in(house) for it in declared_in(House)} == {
        "name": "hut",
        "lamp.watts": 40,
        "lamp.key": "k",
    }


def test_a_value_that_nobody_gives_is_an_error_and_no_silent_default() -> None:
    with pytest.raises(KeyError, match=r"lamp\.key"):
        compose(House, {"name": "hut", "lamp.watts": 40}, floors=2)


def test_a_section_alone_has_its_defaults() -> None:
    assert Lamp() == Lamp(5, "")
