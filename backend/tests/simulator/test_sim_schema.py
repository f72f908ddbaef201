"""Answers that are held to a schema, in every dialect."""

import json
from typing import Any

import jsonschema
import pytest

from knowalledge_simulator import text
from knowalledge_simulator.schema import said
from tests.simulator.conftest import Sim

SCHEMA = {
    "type": "object",
    "properties": {
        "names": {"type": "array", "items": {"type": "string"}, "minItems": 4, "maxItems": 4},
        "count": {"type": "integer", "minimum": 2},
        "sure": {"type": "boolean"},
        "kind": {"enum": ["a", "b"]},
        "inner": {"type": "object", "properties": {"x": {"type": "number"}}, "required": ["x"]},
    },
    "required": ["names", "count", "sure", "kind", "inner"],
}


def test_what_is_said_holds_to_the_schema_and_strings_differ() -> None:
    found = json.loads(said(SCHEMA))
    jsonschema.validate(found, SCHEMA)
    assert len(set(found["names"])) == 4


@pytest.mark.parametrize("odd", [None, 3, {}, {"type": "array", "minItems": 10**9}, {"type": []}])
def test_an_odd_schema_is_no_crash_and_no_flood(odd: Any) -> None:
    assert len(said(odd)) < 100_000


def test_parts_of_a_text_are_the_whole_text() -> None:
    whole = said(SCHEMA)
    count = text.count(whole)
    assert "".join(text.part(whole, at, 7) for at in range(0, count, 7)) == whole


def test_each_dialect_answers_by_the_schema(sim: Sim) -> None:
    for path, body in (
        (
            "/v1beta/models/m:generateContent",
            {
                "contents": [{"parts": [{"text": "x"}]}],
                "generationConfig": {"responseJsonSchema": SCHEMA, "responseMimeType": "application/json"},
            },
        ),
        (
            "/v1/chat/completions",
            {
                "model": "m",
                "messages": [{"role": "user", "content": "x"}],
                "response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA}},
            },
        ),
    ):
        status, found = sim.ask("POST", path, body)
        assert status == 200
        if "candidates" in found:
            answer = found["candidates"][0]["content"]["parts"][0]["text"]
        else:
            answer = found["choices"][0]["message"]["content"]
        jsonschema.validate(json.loads(answer), SCHEMA)


def test_a_streamed_answer_by_a_schema_is_whole_too(sim: Sim) -> None:
    events = sim.text(
        "/v1beta/models/m:streamGenerateContent?alt=sse",
        {
            "contents": [{"parts": [{"text": "x"}]}],
            "generationConfig": {"responseJsonSchema": SCHEMA},
        },
    )
    parts = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")]
    answer = "".join(it["candidates"][0]["content"]["parts"][0]["text"] for it in parts)
    jsonschema.validate(json.loads(answer), SCHEMA)
