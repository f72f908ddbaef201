"""The limits that the embedded model's sampler is held to."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.providers.embedded.grammar import JSON_OBJECT, MAX_CHARACTERS, MAX_ITEMS, limited, sampling
from knowalledge.providers.embedded.provider import Embedded, installed
from tests.support.chunks import each

S = 120.0
ASK = (Message("user", (Text("Describe a cat with its name and age."),)),)


def asked(schema: Any) -> Prompt:
    return Prompt(ASK, json=True, json_schema=json.dumps(schema))


@pytest.mark.parametrize(
    ("schema", "held"),
    [
        ({"type": "string"}, {"type": "string", "maxLength": MAX_CHARACTERS}),
        ({"type": "string", "maxLength": 5}, {"type": "string", "maxLength": 5}),
        ({"type": "string", "maxLength": 9000}, {"type": "string", "maxLength": MAX_CHARACTERS}),
        ({"type": "string", "minLength": 400}, {"type": "string", "minLength": 400, "maxLength": 400}),
        ({"type": ["string", "null"]}, {"type": ["string", "null"], "maxLength": MAX_CHARACTERS}),
        ({"type": "string", "enum": ["a"]}, {"type": "string", "enum": ["a"]}),
        ({"type": "string", "pattern": "^a$"}, {"type": "string", "pattern": "^a$"}),
        ({"type": "string", "format": "date"}, {"type": "string", "format": "date"}),
        ({"type": "array", "minItems": 12}, {"type": "array", "minItems": 12, "maxItems": 12}),
        ({"type": "array", "prefixItems": []}, {"type": "array", "prefixItems": []}),
        ({"type": "integer"}, {"type": "integer"}),
        (True, True),
    ],
)
def test_what_a_schema_leaves_unlimited_gets_a_limit(schema: Any, held: Any) -> None:
    assert json.loads(limited(asked(schema)).json_schema) == held


@pytest.mark.parametrize(
    "around",
    [
        lambda it: {"type": "object", "properties": {"type": it}},
        lambda it: {"type": "object", "properties": {"maxLength": it}},
        lambda it: {"type": "object", "additionalProperties": it},
        lambda it: {"$defs": {"items": it}, "$ref": "#/$defs/items"},
        lambda it: {"definitions": {"a": it}},
        lambda it: {"anyOf": [{"type": "null"}, it]},
        lambda it: {"allOf": [it]},
        lambda it: {"oneOf": [it]},
        lambda it: {"type": "array", "maxItems": MAX_ITEMS, "items": it},
        lambda it: {"type": "array", "prefixItems": [it]},
    ],
)
def test_limits_reach_every_place_where_a_schema_stands(around: Any) -> None:
    held = json.loads(limited(asked(around({"type": "string"}))).json_schema)
    assert held == around({"type": "string", "maxLength": MAX_CHARACTERS})


def test_a_prompt_without_a_schema_stays_as_it_is() -> None:
    plain, any_json = Prompt(ASK), Prompt(ASK, json=True)
    assert limited(plain) is plain
    assert limited(any_json) is any_json
    assert sampling(plain) == sampling(asked({"type": "object"})) == {}
    assert sampling(any_json)["grammar"] == JSON_OBJECT


def nested(depth: int) -> str:
    return '{"items":' * depth + "{}" + "}" * depth


@pytest.mark.parametrize(
    "text",
    ["{", nested(60), '{"type":"string","maxLength":"5"}', '{"type":"array","minItems":null}'],
)
def test_a_schema_that_cannot_be_read_is_rejected_not_failed(text: str) -> None:
    with pytest.raises(e.ProviderRejected, match="schema"):
        limited(Prompt(ASK, json=True, json_schema=text))


@pytest.fixture(scope="module")
def model() -> Iterator[Embedded]:
    if not installed():
        pytest.skip("the extra knowalledge[embedded] is not installed")
    provider = Embedded(SystemClock())
    yield provider
    provider.close()


@pytest.mark.system
@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_any_json_object_is_whole_and_ends(model: Embedded, temperature: float) -> None:
    answer = model.complete(Prompt(ASK, json=True, temperature=temperature, seed=7), S)
    assert isinstance(msgspec.json.decode(answer.text), dict)
    assert answer.finish is Finish.STOP


@pytest.mark.system
def test_an_answer_has_the_schemas_form_streamed_too(model: Embedded) -> None:
    class Cat(msgspec.Struct, forbid_unknown_fields=True):
        name: str
        age: int
        colours: list[str]

    schema = {
        "type": "object",
        "properties": {
            "name": {"type": "string"},
            "age": {"type": "integer"},
            "colours": {"type": "array", "items": {"type": "string", "maxLength": 20}},
        },
        "required": ["name", "age", "colours"],
        "additionalProperties": False,
    }
    prompt = msgspec.structs.replace(asked(schema), temperature=0.0)
    text = "".join(chunk.text for chunk in each(model, prompt, S))
    assert isinstance(msgspec.json.decode(text, type=Cat), Cat)


@pytest.mark.system
@pytest.mark.parametrize("schema", [{"type": "OBJECT"}, {"$ref": "https://example.com/schema"}])
def test_a_schema_that_the_sampler_cannot_read_is_rejected(model: Embedded, schema: Any) -> None:
    with pytest.raises(e.ProviderRejected):
        model.complete(asked(schema), S)
