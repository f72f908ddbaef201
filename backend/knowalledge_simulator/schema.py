"""JSON as a schema wants it: what a model that is held to one would say. Different strings differ."""

import json
from typing import Any

from knowalledge_simulator import text as words

# A schema may ask for more than anybody reads.
MAX_ITEMS = 1000
MAX_DEPTH = 32


def said(schema: Any, start: int = 0) -> str:
    """The text of some value of a schema, in JSON Schema's or OpenAPI's spelling; empty if it is none."""
    if not isinstance(schema, dict):
        return ""
    return json.dumps(_value(schema, [start], 0))


def _value(schema: dict[str, Any], at: list[int], depth: int) -> Any:
    if depth > MAX_DEPTH:
        return None
    found = schema.get("enum")
    if isinstance(found, list) and found:
        return found[0]
    kind = schema.get("type")
    kind = str(kind[0] if isinstance(kind, list) and kind else kind).lower()
    if kind == "object" or "properties" in schema:
        parts = schema.get("properties")
        return {
            name: _value(part if isinstance(part, dict) else {}, at, depth + 1)
            for name, part in (parts.items() if isinstance(parts, dict) else ())
        }
    if kind == "array":
        count = schema.get("minItems", min(3, _number(schema.get("maxItems"), 3)))
        items = schema.get("items")
        return [
            _value(items if isinstance(items, dict) else {}, at, depth + 1)
            for _ in range(min(MAX_ITEMS, _number(count, 3)))
        ]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    if kind == "boolean":
        return True
    at[0] += 1
    return f"{words.say(5, at[0]).strip()} {at[0]}"


def _number(value: Any, usual: int) -> int:
    return int(value) if isinstance(value, int | float | str) and str(value).isdecimal() else usual
