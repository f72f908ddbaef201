"""Sample values of a JSON schema, as a model with structured output would produce them. All strings differ."""

import json
from typing import Any

from knowalledge_simulator import text as words

# Bounds on what a schema may request.
MAX_ITEMS = 1000
MAX_DEPTH = 32


def sample(schema: Any, start: int = 0) -> str:
    """JSON that conforms to a schema in JSON Schema's or OpenAPI's notation; empty if ``schema`` is not an object."""
    if not isinstance(schema, dict):
        return ""
    return json.dumps(_value(schema, [start], 0))


def _value(schema: dict[str, Any], counter: list[int], depth: int) -> Any:
    if depth > MAX_DEPTH:
        return None
    choices = schema.get("enum")
    if isinstance(choices, list) and choices:
        return choices[0]
    kind = schema.get("type")
    kind = str(kind[0] if isinstance(kind, list) and kind else kind).lower()
    if kind == "object" or "properties" in schema:
        properties = schema.get("properties")
        return {
            name: _value(part if isinstance(part, dict) else {}, counter, depth + 1)
            for name, part in (properties.items() if isinstance(properties, dict) else ())
        }
    if kind == "array":
        count = schema.get("minItems", min(3, _number(schema.get("maxItems"), 3)))
        items = schema.get("items")
        return [
            _value(items if isinstance(items, dict) else {}, counter, depth + 1)
            for _ in range(min(MAX_ITEMS, _number(count, 3)))
        ]
    if kind in ("integer", "number"):
        return schema.get("minimum", 0)
    if kind == "boolean":
        return True
    counter[0] += 1
    return f"{words.generate(5, counter[0]).strip()} {counter[0]}"


def _number(value: Any, default: int) -> int:
    return int(value) if isinstance(value, int | float | str) and str(value).isdecimal() else default
