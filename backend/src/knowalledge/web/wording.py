"""What is wrong with a JSON body, in words for the person who wrote it: the field, and what it may be.

The decoder's messages are for programmers of Python, and some of them quote the value, which may be a prompt.
"""

import re
from collections.abc import Iterator
from enum import EnumMeta
from typing import Any

import msgspec
from msgspec import inspect as types

from knowalledge.core.settings import misspelt

_KINDS = {
    "str": "a text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "array": "a list",
    "object": "an object",
    "null": "null",
}
_BOUNDS = {">=": "at least", ">": "more than", "<=": "at most", "<": "less than"}
_MISMATCH = re.compile(r"Expected `([^`]*)`, got `([^`]*)`")
_BOUND = re.compile(r"Expected `(\w+)`( of length)? (>=|>|<=|<) (-?[\d.e+]+)")
_MISSING = re.compile(r"Object missing required field `([^`]*)`")
_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`")
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+|\.\.\.)\]")
_MAX_CHOICES = 12  # a longer list helps nobody


def explained(error: msgspec.ValidationError, expected: Any) -> tuple[str, str]:
    """A sentence, and the field that it is about; empty for the body as a whole. ``expected`` is the decoder's type."""
    said, _, place = str(error).partition(" - at `$")
    path = place.removesuffix("`").removeprefix(".")
    if match := _MISSING.match(said):
        field = f"{path}.{match[1]}".lstrip(".")
        return f"`{field}` is missing", field
    if match := _UNKNOWN.match(said):
        field = f"{path}.{match[1]}".lstrip(".")
        meant = misspelt(match[1], _names(expected, path))
        return f"there is no field `{field}`{f'; is `{meant}` meant?' if meant else ''}", field
    subject = f"`{path}`" if path else "the body"
    if match := _MISMATCH.match(said):
        wanted = [_KINDS.get(it, it) for it in match[1].split(" | ") if it != "null" or match[1] == "null"]
        return f"{subject} must be {' or '.join(wanted)}, not {_KINDS.get(match[2], match[2])}", path
    if match := _BOUND.match(said):
        number = match[4].removesuffix(".0")
        unit = " characters" if match[1] == "str" else " entries"
        verb = "have" if match[2] else "be"
        return f"{subject} must {verb} {_BOUNDS[match[3]]} {number}{unit if match[2] else ''}", path
    if said.startswith("Invalid"):
        choices = _choices(expected, path)
        listed = f": choose from {', '.join(choices)}" if 0 < len(choices) <= _MAX_CHOICES else ""
        return f"{subject} has no such value{listed}", path
    return f"{subject} has a value that cannot be read", path


def not_json(error: Exception, body: bytes) -> str:
    """Why a body is not JSON."""
    if not body.strip():
        return "the body is empty: send JSON"
    place = re.search(r"\(byte (\d+)\)", str(error))
    return (
        f"the body is not JSON: look at byte {place[1]}" if place else "the body is not JSON: it ends early"
    )


def _at(expected: Any, path: str) -> list[Any]:
    """The types that a value at a path may have."""
    inner_types = [types.type_info(expected)]
    for name, _ in _STEP.findall(path):
        inner_types = [inner for it in inner_types for inner in _inside(it, name)]
    return [it for one in inner_types for it in _alternatives(one)]


def _alternatives(kind: Any) -> Iterator[Any]:
    if isinstance(kind, types.UnionType):
        for it in kind.types:
            yield from _alternatives(it)
    else:
        yield kind.type if isinstance(kind, types.Metadata) else kind


def _inside(kind: Any, name: str) -> Iterator[Any]:
    """What a field, or for an empty name an item, of a type may be."""
    for it in _alternatives(kind):
        if isinstance(it, types.StructType):
            yield from (field.type for field in it.fields if field.encode_name == name)
            if name and name == it.tag_field:
                yield types.LiteralType((it.tag,))
        elif isinstance(it, types.ListType | types.VarTupleType):
            yield it.item_type
        elif isinstance(it, types.DictType):
            yield it.value_type


def _names(expected: Any, path: str) -> list[str]:
    return [
        field.encode_name
        for it in _at(expected, path)
        if isinstance(it, types.StructType)
        for field in it.fields
    ]


def _choices(expected: Any, path: str) -> list[str]:
    values: list[Any] = []
    for it in _at(expected, path):
        if isinstance(it, types.LiteralType):
            values += it.values
        elif isinstance(it, types.EnumType) and isinstance(it.cls, EnumMeta):
            values += [member.value for member in it.cls]
    return list(dict.fromkeys(map(str, values)))
