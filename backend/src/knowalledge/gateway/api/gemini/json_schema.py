"""Google's kind of schema (a subset of OpenAPI 3.0, types in capitals) as JSON Schema.

Source: ai.google.dev/api/caching#Schema. What only orders or illustrates is dropped; what constrains is kept.
"""

import re
from typing import Any

import msgspec

from knowalledge.core.errors import InvalidRequest

MAX_DEPTH = 64
_DROPPED = frozenset(("propertyOrdering", "example", "nullable", "type"))
# Counts, which Google's JSON writes as text because they are 64-bit.
_COUNTS = frozenset(("minItems", "maxItems", "minLength", "maxLength", "minProperties", "maxProperties"))
# Proto JSON also takes names in snake_case, and an enum's value as its number.
_CAMEL = {
    re.sub("[A-Z]", lambda it: f"_{it[0].lower()}", name): name
    for name in (
        "anyOf",
        "oneOf",
        "allOf",
        "prefixItems",
        "additionalProperties",
        "propertyOrdering",
        *_COUNTS,
    )
}
_KINDS = ("TYPE_UNSPECIFIED", "STRING", "NUMBER", "INTEGER", "BOOLEAN", "ARRAY", "OBJECT", "NULL")
_encode = msgspec.json.Encoder().encode


def json_schema(text: str, where: str) -> str:
    """The schema as JSON Schema text; empty stays empty. Raises ``InvalidRequest`` if it is nested too deeply."""
    return _encode(_convert(msgspec.json.decode(text), where, 0)).decode() if text else ""


def _convert(schema: Any, where: str, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise InvalidRequest("the schema is nested too deeply", param=where)
    if not isinstance(schema, dict):
        return schema
    schema = {_CAMEL.get(name, name): value for name, value in schema.items()}
    converted: dict[str, Any] = {}
    kind = schema.get("type")
    if isinstance(kind, int) and not isinstance(kind, bool):
        kind = _KINDS[kind] if 0 <= kind < len(_KINDS) else None
    nullable = schema.get("nullable") is True
    if isinstance(kind, str) and kind != "TYPE_UNSPECIFIED":
        kind = kind.lower()
        converted["type"] = [kind, "null"] if nullable else kind
    elif isinstance(kind, list):
        converted["type"] = [it.lower() if isinstance(it, str) else it for it in kind]
    for key, value in schema.items():
        if key in _DROPPED:
            continue
        if (
            key == "properties"
            and isinstance(value, dict)
            and isinstance(schema.get("propertyOrdering"), list)
        ):
            order = [it for it in schema["propertyOrdering"] if isinstance(it, str) and it in value]
            value = {name: value[name] for name in (*dict.fromkeys(order), *value)}
        if key in ("properties", "$defs", "defs") and isinstance(value, dict):
            value = {name: _convert(it, where, depth + 1) for name, it in value.items()}
        elif key in ("anyOf", "oneOf", "allOf", "prefixItems") and isinstance(value, list):
            value = [_convert(it, where, depth + 1) for it in value]
        elif key in ("items", "additionalProperties"):
            value = _convert(value, where, depth + 1)
        elif key in _COUNTS and isinstance(value, str) and value.isdecimal() and len(value) < 19:
            value = int(value)
        converted[key] = value
    return _allow_null(converted) if nullable else converted


def _allow_null(schema: dict[str, Any]) -> dict[str, Any]:
    """``nullable``, which also widens an ``enum`` and alternatives; in JSON Schema each of them must allow null."""
    enum, alternatives = schema.get("enum"), schema.get("anyOf")
    if isinstance(enum, list) and None not in enum:
        schema["enum"] = [*enum, None]
    if isinstance(alternatives, list) and {"type": "null"} not in alternatives:
        schema["anyOf"] = [*alternatives, {"type": "null"}]
    if "$ref" in schema and "anyOf" not in schema:
        return {"anyOf": [schema, {"type": "null"}]}
    return schema
