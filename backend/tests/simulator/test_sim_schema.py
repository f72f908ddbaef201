"""Answers that conform to a schema, in every dialect."""

import json
from typing import Any

import jsonschema
import pytest

from knowalledge_simulator import text
from knowalledge_simulator.schema import sample
from tests.simulator.conftest import SimulatorClient

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


def test_a_sample_conforms_to_its_schema_and_its_strings_differ() -> None:
    value = json.loads(sample(SCHEMA))
    jsonschema.validate(value, SCHEMA)
    assert len(set(value["names"])) == 4


@pytest.mark.parametrize("schema", [None, 3, {}, {"type": "array", "minItems": 10**9}, {"type": []}])
def test_a_malformed_schema_gives_a_bounded_sample(schema: Any) -> None:
    assert len(sample(schema)) < 100_000


def test_consecutive_slices_join_to_the_whole_text() -> None:
    whole = sample(SCHEMA)
    count = text.count_tokens(whole)
    assert "".join(text.slice_tokens(whole, at, 7) for at in range(0, count, 7)) == whole


def test_each_dialect_answers_according_to_the_schema(sim: SimulatorClient) -> None:
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
        status, response = sim.request("POST", path, body)
        assert status == 200
        if "candidates" in response:
            answer = response["candidates"][0]["content"]["parts"][0]["text"]
        else:
            answer = response["choices"][0]["message"]["content"]
        jsonschema.validate(json.loads(answer), SCHEMA)


def test_a_streamed_answer_conforms_to_the_schema_too(sim: SimulatorClient) -> None:
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
