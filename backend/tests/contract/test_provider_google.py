"""What only Google's dialects say: its requests, its 429s, its blocks."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import Blob, FileRef, Message, Prompt, Text, Tool, ToolCall, ToolResult
from knowalledge.gateway.ports import Provider
from knowalledge.providers import google, vertex
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.registry import build
from tests.contract.provider_dialects import GeminiDialect, dump
from tests.support.chunks import each
from tests.support.loopback import Loopback, replies, sse, streams

S = 20.0
PROMPT = Prompt((Message("user", (Text("hi"),)),))
ANSWER = GeminiDialect().answer()


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback(replies(ANSWER))
    yield server
    server.stop()


def gemini(server: Loopback, key: str = "k-1") -> Provider:
    return build(ProviderSpec("gemini", "gemini-x", server.url, api_key=key), SystemClock())


def at_vertex(server: Loopback, **changes: str) -> Provider:
    found = {"project": "demo", "location": "us-central1", "credentials": "anonymous", **changes}
    return build(ProviderSpec("vertex", "gemini-x", server.url, **found), SystemClock())


def asked(server: Loopback) -> Any:
    return json.loads(server.asked[-1].body)


# -- requests ----------------------------------------------------------------------------------------------------------


def test_everything_that_a_prompt_says_is_asked() -> None:
    prompt = Prompt(
        messages=(
            Message("user", (Text("look"), Blob("image/png", b"\x89PNG"), FileRef("gs://b/o", "video/mp4"))),
            Message("assistant", (Text("I look"), ToolCall("f", '{"b":1,"a":[]}', "c1", "sig=="))),
            Message("tool", (ToolResult("f", '{"x":1}', "c1"), ToolResult("g", "plain", "c2"))),
            Message("user", (FileRef("https://x/y"),)),
        ),
        system="be brief",
        max_output_tokens=7,
        temperature=0.5,
        top_p=0.9,
        top_k=3,
        seed=42,
        stop=("END",),
        presence_penalty=0.1,
        frequency_penalty=0.2,
        json_schema='{"type":"object","properties":{"z":{},"a":{}}}',
        tools=(Tool("f", "does f", '{"type":"object"}'), Tool("g")),
        tool_choice="f",
        thinking_budget=0,
        safety='[{"category":"C","threshold":"OFF"}]',
    )

    body = google.request_body(prompt)

    assert json.loads(body) == {
        "contents": [
            {
                "role": "user",
                "parts": [
                    {"text": "look"},
                    {"inlineData": {"mimeType": "image/png", "data": "iVBORw=="}},
                    {"fileData": {"fileUri": "gs://b/o", "mimeType": "video/mp4"}},
                ],
            },
            {
                "role": "model",
                "parts": [
                    {"text": "I look"},
                    {"functionCall": {"name": "f", "args": {"b": 1, "a": []}}, "thoughtSignature": "sig=="},
                ],
            },
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"name": "f", "response": {"x": 1}}},
                    {"functionResponse": {"name": "g", "response": {"result": "plain"}}},
                ],
            },
            {"role": "user", "parts": [{"fileData": {"fileUri": "https://x/y"}}]},
        ],
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "generationConfig": {
            "maxOutputTokens": 7,
            "temperature": 0.5,
            "topP": 0.9,
            "topK": 3,
            "seed": 42,
            "stopSequences": ["END"],
            "presencePenalty": 0.1,
            "frequencyPenalty": 0.2,
            "responseMimeType": "application/json",
            "responseJsonSchema": {"type": "object", "properties": {"z": {}, "a": {}}},
            "thinkingConfig": {"thinkingBudget": 0},
        },
        "tools": [
            {
                "functionDeclarations": [
                    {"name": "f", "description": "does f", "parametersJsonSchema": {"type": "object"}},
                    {"name": "g"},
                ]
            }
        ],
        "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
        "safetySettings": [{"category": "C", "threshold": "OFF"}],
    }
    assert b'{"z":{},"a":{}}' in body  # the order of a schema's properties is the order of the answer's


def test_what_a_prompt_does_not_say_is_not_asked() -> None:
    assert json.loads(google.request_body(PROMPT)) == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}]
    }


@pytest.mark.parametrize(("choice", "mode"), [("auto", "AUTO"), ("none", "NONE"), ("required", "ANY")])
def test_a_tool_choice_has_its_mode(choice: str, mode: str) -> None:
    body = json.loads(google.request_body(Prompt(PROMPT.messages, tools=(Tool("f"),), tool_choice=choice)))
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": mode}}


@pytest.mark.parametrize("field", ["json_schema", "safety"])
def test_json_that_is_none_cannot_break_the_request(field: str) -> None:
    """It is passed on as text, so it could close our object and open another."""
    for text in ('{}},"contents":[{"x":{', "{", "nonsense", "\x00"):
        with pytest.raises(e.ProviderRejected):
            google.request_body(Prompt(PROMPT.messages, **{field: text}))
    with pytest.raises(e.ProviderRejected):
        google.request_body(Prompt(PROMPT.messages, tools=(Tool("f", "", '{},"x":1'),)))


@pytest.mark.parametrize(
    ("arguments", "args"),
    [("", {}), ("[1]", {"arguments": [1]}), ("7", {"arguments": 7}), ("no json", {"arguments": "no json"})],
)
def test_arguments_are_an_object_whatever_a_model_made_of_them(arguments: str, args: object) -> None:
    prompt = Prompt((Message("assistant", (ToolCall("f", arguments),)),))
    assert json.loads(google.request_body(prompt))["contents"][0]["parts"][0]["functionCall"]["args"] == args


def test_each_api_has_its_addresses(server: Loopback) -> None:
    root = "/v1beta/models/gemini-x"
    for provider, path in (
        (gemini(server), root),
        (at_vertex(server), "/v1/projects/demo/locations/us-central1/publishers/google/models/gemini-x"),
        (at_vertex(server, project="", location="", api_key="k"), "/v1/publishers/google/models/gemini-x"),
    ):
        server.asked.clear()
        provider.complete(PROMPT, S)
        with pytest.raises(e.ProviderGarbage):
            list(each(provider, PROMPT, S))
        assert [it.line for it in server.asked] == [
            f"POST {path}:generateContent HTTP/1.1",
            f"POST {path}:streamGenerateContent?alt=sse HTTP/1.1",
        ]
        provider.close()


def test_a_locations_endpoint_is_its_own() -> None:
    assert vertex.url("europe-west4") == "https://europe-west4-aiplatform.googleapis.com"
    assert vertex.url("global") == vertex.url("") == "https://aiplatform.googleapis.com"


def test_a_models_name_cannot_lead_elsewhere(server: Loopback) -> None:
    provider = build(ProviderSpec("gemini", "a b?x#y\r\nz: é", server.url, api_key="k"), SystemClock())
    provider.complete(PROMPT, S)
    assert server.asked[0].line == (
        "POST /v1beta/models/a%20b%3Fx%23y%0D%0Az:%20%C3%A9:generateContent HTTP/1.1"
    )
    provider.close()


def test_the_key_goes_into_a_header_and_nowhere_else(server: Loopback) -> None:
    provider = gemini(server, "k-1")
    provider.complete(PROMPT, S)
    assert server.asked[0].headers["x-goog-api-key"] == "k-1"
    assert "k-1" not in server.asked[0].line
    provider.close()


def test_tokens_are_counted_with_the_system_prompt_and_the_tools(server: Loopback) -> None:
    server.behaviour = replies(b'{"totalTokens": 5}')
    whole = Prompt(PROMPT.messages, system="be brief", tools=(Tool("f"),), max_output_tokens=3)
    contents = [{"role": "user", "parts": [{"text": "hi"}]}]
    extra = {
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    }
    one, other = gemini(server), at_vertex(server)
    assert one.count_tokens(PROMPT, S) == 5
    assert asked(server) == {"contents": contents}
    one.count_tokens(whole, S)
    assert asked(server) == {
        "generateContentRequest": {"model": "models/gemini-x", "contents": contents, **extra}
    }
    other.count_tokens(whole, S)
    assert asked(server) == {"contents": contents, **extra}
    assert server.asked[-1].path.endswith(":countTokens")
    one.close(), other.close()


def test_embeddings_are_asked_for_in_each_apis_form(server: Loopback) -> None:
    server.behaviour = replies(GeminiDialect.vectors)
    one = gemini(server)
    one.embed(("a", "b"), 2, S)
    assert server.asked[-1].path.endswith(":batchEmbedContents")
    assert asked(server)["requests"][1] == {
        "model": "models/gemini-x",
        "content": {"parts": [{"text": "b"}]},
        "outputDimensionality": 2,
    }
    other = at_vertex(server)
    with pytest.raises(e.ProviderGarbage):
        other.embed(("a", "b"), 2, S)
    assert server.asked[-1].path.endswith(":predict")
    assert asked(server) == {
        "instances": [{"content": "a"}, {"content": "b"}],
        "parameters": {"outputDimensionality": 2},
    }
    one.close(), other.close()


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_call_carries_the_signature_that_must_come_back(server: Loopback) -> None:
    part = {"functionCall": {"name": "f", "args": None}, "thoughtSignature": "sig=="}
    server.behaviour = replies(dump({"candidates": [{"finishReason": "STOP", "content": {"parts": [part]}}]}))
    provider = gemini(server)
    assert provider.complete(PROMPT, S).tool_calls == (ToolCall("f", "{}", "", "sig=="),)
    provider.close()


def test_a_blocked_prompt_is_the_callers_matter(server: Loopback) -> None:
    blocked = dump({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {}})
    provider = gemini(server)
    server.behaviour = replies(blocked)
    with pytest.raises(e.ContentBlocked, match="PROHIBITED_CONTENT"):
        provider.complete(PROMPT, S)
    server.behaviour = streams(sse(blocked))
    with pytest.raises(e.ContentBlocked):
        next(each(provider, PROMPT, S))
    provider.close()


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"])
def test_a_blocked_answer_is_an_answer_that_stopped_for_safety(reason: str, server: Loopback) -> None:
    server.behaviour = replies(dump({"candidates": [{"finishReason": reason, "index": 0}]}))
    provider = gemini(server)
    answer = provider.complete(PROMPT, S)
    assert (answer.finish, answer.parts) == (Finish.SAFETY, ())
    provider.close()


def test_chunks_that_each_say_that_they_finish_end_the_stream_once(server: Loopback) -> None:
    """As older models do."""
    form = GeminiDialect()
    server.behaviour = streams(sse(form.event("a", "")), sse(form.event("b", "")), sse(form.event("c", "")))
    provider = gemini(server)
    chunks = list(each(provider, PROMPT, S))
    assert [chunk.finish for chunk in chunks] == [None, None, Finish.STOP]
    assert "".join(chunk.text for chunk in chunks) == "abc"
    provider.close()


def test_events_without_a_candidate_are_passed_over(server: Loopback) -> None:
    form = GeminiDialect()
    usage = sse(dump({"usageMetadata": form.counted()}))
    server.behaviour = streams(usage, sse(form.event("a")), usage, sse(form.event("", "")))
    provider = gemini(server)
    chunks = list(each(provider, PROMPT, S))
    assert [chunk.text for chunk in chunks if chunk.text] == ["a"]
    assert chunks[0].usage == form.usage
    provider.close()


# -- refusals ----------------------------------------------------------------------------------------------------------

QUOTA_ID = "GenerateContentInputTokensPerModelPerMinute-FreeTier"


def refusal(*details: object, code: int = 429, status: str = "RESOURCE_EXHAUSTED") -> Any:
    return {"error": {"code": code, "message": "secret", "status": status, "details": list(details)}}


def failure(*violations: object) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": list(violations)}


def retry(delay: object) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


@pytest.mark.parametrize(
    ("document", "headers", "seconds", "quota_id"),
    [
        (refusal(failure({"quotaMetric": "m", "quotaId": QUOTA_ID}), retry("33s")), {}, 33.0, QUOTA_ID),
        (refusal(retry("0.25s")), {}, 0.25, ""),
        (refusal(retry("7s")), {"retry_after": "99"}, 7.0, ""),
        (refusal(), {"retry_after": "99"}, 99.0, ""),
        (refusal(), {}, None, ""),
        ([refusal(failure({"quotaId": QUOTA_ID}), retry("5s"))], {}, 5.0, QUOTA_ID),
        (refusal(retry("soon"), retry(7), retry("-1s"), retry("1e9s")), {}, None, ""),
        (refusal(failure("x", {}, {"quotaId": ""}, {"quotaId": "a\r\nb<c>"})), {}, None, "abc"),
        (refusal(7, None, {"@type": 7}, {"@type": "google.rpc.QuotaFailure", "violations": 7}), {}, None, ""),
        (refusal(failure({"quotaId": "x" * 5000})), {}, None, "x" * 120),
        ({"error": {"details": 7}}, {}, None, ""),
    ],
)
def test_a_429_teaches_what_it_says_and_nothing_more(
    document: object, headers: dict[str, str], seconds: float | None, quota_id: str, server: Loopback
) -> None:
    server.behaviour = replies(dump(document), 429, **headers)
    for provider in (gemini(server), at_vertex(server)):
        with pytest.raises(e.ProviderRateLimited) as caught:
            provider.complete(PROMPT, S)
        assert (caught.value.retry_after, caught.value.quota_id) == (seconds, quota_id)
        with pytest.raises(e.ProviderRateLimited) as caught:
            list(each(provider, PROMPT, S))
        assert (caught.value.retry_after, caught.value.quota_id) == (seconds, quota_id)
        provider.close()


def test_a_429_inside_a_stream_teaches_as_much(server: Loopback) -> None:
    server.behaviour = streams(sse(dump(refusal(failure({"quotaId": QUOTA_ID}), retry("33s")))))
    provider = gemini(server)
    with pytest.raises(e.ProviderRateLimited) as caught:
        next(each(provider, PROMPT, S))
    assert (caught.value.retry_after, caught.value.quota_id) == (33.0, QUOTA_ID)
    provider.close()


def test_a_key_that_is_not_valid_is_our_fault_not_the_callers(server: Loopback) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    server.behaviour = replies(dump(refusal(info, code=400, status="INVALID_ARGUMENT")), 400)
    provider = gemini(server)
    with pytest.raises(e.ProviderAuth):
        provider.complete(PROMPT, S)
    provider.close()


def test_a_rejection_names_googles_word_for_it(server: Loopback) -> None:
    server.behaviour = replies(dump(refusal(code=400, status="INVALID_ARGUMENT")), 400)
    provider = gemini(server)
    with pytest.raises(e.ProviderRejected) as caught:
        provider.complete(PROMPT, S)
    assert str(caught.value) == "the provider rejected the request (400 INVALID_ARGUMENT)"
    provider.close()
