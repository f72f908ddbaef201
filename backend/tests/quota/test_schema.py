"""What the scripts get of Python: nothing is typed twice, and nothing is given in vain."""

import re
from importlib.resources import files
from importlib.resources.abc import Traversable

import pytest

from knowalledge.net.redis.scripts import Script
from knowalledge.quota.schema import CONSTANTS

SCRIPTS = [it for it in (files("knowalledge.quota") / "scripts").iterdir() if it.name.endswith(".lua")]


def code(text: str) -> str:
    return re.sub(r"--[^\n]*", "", text)


# Of an enum or a layout the scripts get all members, though they may need only some.
WHOLE = ("OUTCOME_", "LIVE_", "WAITER_", "USAGE_", "KEY_", "FIELD_", "REASON_", "REPLY_")


def test_every_constant_is_used_by_a_script() -> None:
    used = {word for script in SCRIPTS for word in re.findall(r"\b[A-Z0-9_]+\b", code(script.read_text()))}
    assert {name for name in CONSTANTS if not name.startswith(WHOLE)} <= used


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda it: it.name)
def test_no_script_types_a_key_a_field_or_a_figure_of_python_itself(script: Traversable) -> None:
    text = code(script.read_text())
    names = {value for value in CONSTANTS.values() if isinstance(value, str)}
    assert set(re.findall(r"'([^']*)'", text)) & names == set()
    figures = {str(value) for value in CONSTANTS.values() if isinstance(value, int | float) and value > 15}
    assert set(re.findall(r"\b\d+(?:\.\d+)?\b", text)) & figures == set()


def test_a_script_that_names_an_unknown_constant_does_not_load() -> None:
    known = {name: value for name, value in CONSTANTS.items() if name != "RING_SIZE"}
    with pytest.raises(KeyError, match="RING_SIZE"):
        Script.load("knowalledge.quota", "dispatch", "_ledger", "_queue", constants=known)
