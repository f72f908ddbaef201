"""What becomes of each field where client and target speak different dialects: one table, for the code and its page.

A path is written as in the JSON, with ``[]`` for each element of a list. A rule covers everything below its path that
no longer path covers. Where the dialects are the same, every field travels and none of this counts.
"""

import re
from collections.abc import Iterable
from enum import StrEnum
from typing import Any

import msgspec
from msgspec import Struct

from knowalledge.core.errors import InvalidRequest


class Fate(StrEnum):
    """What becomes of a field."""

    CARRIED = "carried"
    REFUSED = "refused"  # with a 400 that names it
    IGNORED = "ignored"  # because it cannot change the answer, or only the gateway's reader is told


class Rule(Struct, frozen=True):
    """The fate of a field and how, in a sentence.

    ``harmless``: values of a refused field that mean its absence. ``alone``: the rule covers nothing below its path.
    """

    path: str
    fate: Fate
    how: str = ""
    harmless: tuple[Any, ...] = ()
    alone: bool = False


class FieldTable(Struct, frozen=True):
    """The rules of one kind of document, on its way from ``source`` to ``destination``."""

    name: str  # of its section in the page
    source: str
    destination: str
    rules: tuple[Rule, ...]

    def rule_for(self, path: str) -> Rule | None:
        """The rule with the longest path that covers ``path``."""
        covering = [
            it
            for it in self.rules
            if path == it.path or (not it.alone and path.startswith((f"{it.path}.", f"{it.path}[")))
        ]
        return max(covering, key=lambda it: len(it.path), default=None)


def carried(how: str, *paths: str) -> tuple[Rule, ...]:
    """Rules of fields that reach the other side."""
    return tuple(Rule(path, Fate.CARRIED, how) for path in paths)


def containers(how: str, *paths: str) -> tuple[Rule, ...]:
    """Rules of fields that are carried by what is in them, each with a rule of its own."""
    return tuple(Rule(path, Fate.CARRIED, how, alone=True) for path in paths)


def refused(how: str, *paths: str, harmless: tuple[Any, ...] = ()) -> tuple[Rule, ...]:
    """Rules of fields that the other side cannot have."""
    return tuple(Rule(path, Fate.REFUSED, how, harmless) for path in paths)


def ignored(how: str, *paths: str) -> tuple[Rule, ...]:
    """Rules of fields that may be left out."""
    return tuple(Rule(path, Fate.IGNORED, how) for path in paths)


class Refusals:
    """Finds the first refused field of a body. A body without any of their names is not read at all."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._root: dict[str, Any] = {}
        names: set[str] = set()
        for rule in rules:
            if rule.fate is not Fate.REFUSED:
                continue
            node = self._root
            *parents, last = _steps(rule.path)
            for step in parents:
                node = node.setdefault(step, {})
            node[last] = rule
            # Nearly every body has ``parts``.
            names.add(parents[-1] if last == "parts" else last)
        self._names = re.compile(rb'"(?:' + "|".join(map(re.escape, sorted(names))).encode() + rb')"\s*:')

    def first(self, body: bytes) -> InvalidRequest | None:
        """The error for the first one in ``body``, a valid JSON object."""
        if not self._names.search(body):
            return None
        first = _first(msgspec.json.decode(body), self._root, "")
        if first is None:
            return None
        path, rule = first
        return InvalidRequest(f"not served by this model's provider: {rule.how}", param=path)


def _steps(path: str) -> list[str]:
    return [it for it in re.split(r"\.|(\[\])", path) if it]


def _first(value: Any, node: dict[str, Any], path: str) -> tuple[str, Rule] | None:
    if isinstance(value, list):
        inner: dict[str, Any] = node.get("[]", {})
        items = enumerate(value) if inner else ()
        matches = (_first(item, inner, f"{path}[{index}]") for index, item in items)
        return next((it for it in matches if it is not None), None)
    if not isinstance(value, dict):
        return None
    for name, below in node.items():
        given = value.get(name)
        if given is None:
            continue
        place = f"{path}.{name}".lstrip(".")
        if isinstance(below, Rule):
            if given not in below.harmless and given not in ([], False):
                return place, below
        else:
            # As in Google's JSON, a single element may stand without its list.
            lone = "[]" in below and isinstance(given, dict)
            result = _first([given] if lone else given, below, place)
            if result is not None:
                return result
    return None
