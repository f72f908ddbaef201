"""What the sampler of the embedded model is held to, so that a small model's JSON is whole and ends.

llama.cpp makes a grammar from a JSON Schema. A small model does not know when to stop: what a schema leaves unlimited,
it fills until the tokens are spent. So limits are added; an answer within them fits the original schema too.
"""

from typing import Any

import msgspec
from msgspec.structs import replace

from knowalledge.core.errors import ProviderRejected
from knowalledge.gateway.domain.prompt import Prompt

MAX_CHARACTERS = 300  # of a text
MAX_ITEMS = 8  # of a list
MAX_DEPTH = 50
# Keywords that hold a schema, a list of schemas, or schemas by name.
_ONE = ("items", "additionalProperties", "not")
_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_NAMED = ("properties", "$defs", "definitions")
# A text that one of these limits already; llama.cpp takes no maxLength beside them.
_LIMITING = ("pattern", "enum", "const", "format", "$ref")

# A JSON object in llama.cpp's GBNF: at most two levels, for an answer without a schema.
JSON_OBJECT = r"""root ::= "{" ws pair ("," ws pair){0,11} ws "}"
pair ::= key ":" " "? (scalar | list | inner)
inner ::= "{" ws flat ("," ws flat){0,5} ws "}"
flat ::= key ":" " "? scalar
list ::= "[" ws (scalar ("," ws scalar){0,7} | inner ("," ws inner){0,3}) ws "]"
scalar ::= string | number | "true" | "false" | "null"
key ::= "\"" [A-Za-z0-9_ -]{1,40} "\""
string ::= "\"" char{0,300} "\""
char ::= [^"\\\x7F\x00-\x1F] | "\\" ["\\/bfnrt]
number ::= "-"? ("0" | [1-9] [0-9]{0,11}) ("." [0-9]{1,6})?
ws ::= [ \n]{0,2}
"""


def limited(prompt: Prompt) -> Prompt:
    """The prompt with limits in its schema. Raises ``ProviderRejected`` for one that is not JSON or is too deep."""
    if not prompt.json_schema:
        return prompt
    try:
        schema = _limited(msgspec.json.decode(prompt.json_schema), 0)
    except msgspec.DecodeError as error:
        raise ProviderRejected("a schema in the request is not JSON") from error
    return replace(prompt, json_schema=msgspec.json.encode(schema).decode())


def sampling(prompt: Prompt) -> dict[str, Any]:
    """The fields of llama.cpp's own for a prompt: a grammar where any JSON object is asked for."""
    if prompt.json and not prompt.json_schema:
        return {"response_format": {"type": "text"}, "grammar": JSON_OBJECT}
    return {}


def _limited(schema: Any, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ProviderRejected("the schema is nested too deeply")
    if not isinstance(schema, dict):
        return schema  # true or false
    schema = dict(schema)
    for word in _ONE:
        if word in schema:
            schema[word] = _limited(schema[word], depth + 1)
    for word in _LISTS:
        if isinstance(schema.get(word), list):
            schema[word] = [_limited(it, depth + 1) for it in schema[word]]
    for word in _NAMED:
        if isinstance(schema.get(word), dict):
            schema[word] = {name: _limited(it, depth + 1) for name, it in schema[word].items()}
    kinds = schema.get("type")
    kinds = kinds if isinstance(kinds, list) else [kinds]
    if "string" in kinds and not any(word in schema for word in _LIMITING):
        schema["maxLength"] = _limit(schema, "minLength", "maxLength", MAX_CHARACTERS)
    if "array" in kinds and "prefixItems" not in schema:
        schema["maxItems"] = _limit(schema, "minItems", "maxItems", MAX_ITEMS)
    return schema


def _limit(schema: dict[str, Any], low: str, high: str, usual: int) -> int:
    """The most that the schema allows, but no more than usual unless it demands more."""
    least = schema.get(low, 0)
    most = schema.get(high, max(least, usual) if isinstance(least, int) else usual)
    if not (isinstance(most, int) and isinstance(least, int)):
        raise ProviderRejected(f"a schema in the request has a {high} or {low} that is no whole number")
    return max(least, min(most, usual)) if most >= least else most
