"""What is particular to Google's APIs: requests, 429 responses, blocked prompts."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from msgspec.structs import replace

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


def gemini_at(server: Loopback, key: str = "k-1") -> Provider:
    return build(ProviderSpec("gemini", "gemini-x", server.url, api_key=key), SystemClock())


def vertex_at(server: Loopback, **changes: str) -> Provider:
    fields = {"project": "demo", "location": "us-central1", "credentials": "anonymous", **changes}
    return build(ProviderSpec("vertex", "gemini-x", server.url, **fields), SystemClock())


def last_body(server: Loopback) -> Any:
    return json.loads(server.requests[-1].body)


# -- requests ----------------------------------------------------------------------------------------------------------


FULL_PROMPT = Prompt(
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
FULL_BODY = {
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


def test_every_field_of_a_prompt_is_sent() -> None:
    body = google.request_body(FULL_PROMPT)
    assert json.loads(body) == FULL_BODY
    assert b'{"z":{},"a":{}}' in body  # the order of properties is kept: models answer in it


def test_unset_fields_of_a_prompt_are_not_sent() -> None:
    assert json.loads(google.request_body(PROMPT)) == {
        "contents": [{"role": "user", "parts": [{"text": "hi"}]}]
    }


@pytest.mark.parametrize(("choice", "mode"), [("auto", "AUTO"), ("none", "NONE"), ("required", "ANY")])
def test_a_tool_choice_has_its_mode(choice: str, mode: str) -> None:
    body = json.loads(google.request_body(Prompt(PROMPT.messages, tools=(Tool("f"),), tool_choice=choice)))
    assert body["toolConfig"] == {"functionCallingConfig": {"mode": mode}}


@pytest.mark.parametrize("field", ["json_schema", "safety"])
def test_invalid_json_is_rejected_before_it_is_embedded(field: str) -> None:
    """It is embedded as text, so it could end our object and add another."""
    for text in ('{}},"contents":[{"x":{', "{", "nonsense", "\x00"):
        with pytest.raises(e.ProviderRejected):
            google.request_body(replace(PROMPT, **{field: text}))
    with pytest.raises(e.ProviderRejected):
        google.request_body(Prompt(PROMPT.messages, tools=(Tool("f", "", '{},"x":1'),)))


@pytest.mark.parametrize(
    ("arguments", "args"),
    [("", {}), ("[1]", {"arguments": [1]}), ("7", {"arguments": 7}), ("no json", {"arguments": "no json"})],
)
def test_arguments_are_sent_as_an_object_whatever_they_are(arguments: str, args: object) -> None:
    prompt = Prompt((Message("assistant", (ToolCall("f", arguments),)),))
    assert json.loads(google.request_body(prompt))["contents"][0]["parts"][0]["functionCall"]["args"] == args


def test_each_api_has_its_paths(server: Loopback) -> None:
    root = "/v1beta/models/gemini-x"
    for provider, path in (
        (gemini_at(server), root),
        (vertex_at(server), "/v1/projects/demo/locations/us-central1/publishers/google/models/gemini-x"),
        (vertex_at(server, project="", location="", api_key="k"), "/v1/publishers/google/models/gemini-x"),
    ):
        server.requests.clear()
        provider.complete(PROMPT, S)
        with pytest.raises(e.ProviderGarbage):
            list(each(provider, PROMPT, S))
        assert [it.line for it in server.requests] == [
            f"POST {path}:generateContent HTTP/1.1",
            f"POST {path}:streamGenerateContent?alt=sse HTTP/1.1",
        ]
        provider.close()


def test_each_location_has_its_endpoint() -> None:
    assert vertex.url("europe-west4") == "https://europe-west4-aiplatform.googleapis.com"
    assert vertex.url("global") == vertex.url("") == "https://aiplatform.googleapis.com"


def test_the_name_of_a_model_is_quoted_in_the_path(server: Loopback) -> None:
    provider = build(ProviderSpec("gemini", "a b?x#y\r\nz: é", server.url, api_key="k"), SystemClock())
    provider.complete(PROMPT, S)
    assert server.requests[0].line == (
        "POST /v1beta/models/a%20b%3Fx%23y%0D%0Az:%20%C3%A9:generateContent HTTP/1.1"
    )
    provider.close()


def test_the_api_key_is_sent_in_a_header_only(server: Loopback) -> None:
    provider = gemini_at(server, "k-1")
    provider.complete(PROMPT, S)
    assert server.requests[0].headers["x-goog-api-key"] == "k-1"
    assert "k-1" not in server.requests[0].line
    provider.close()


def test_tokens_are_counted_with_the_system_prompt_and_the_tools(server: Loopback) -> None:
    server.handler = replies(b'{"totalTokens": 5}')
    full = Prompt(PROMPT.messages, system="be brief", tools=(Tool("f"),), max_output_tokens=3)
    contents = [{"role": "user", "parts": [{"text": "hi"}]}]
    extra = {
        "systemInstruction": {"parts": [{"text": "be brief"}]},
        "tools": [{"functionDeclarations": [{"name": "f"}]}],
    }
    gemini, vertex_ = gemini_at(server), vertex_at(server)
    assert gemini.count_tokens(PROMPT, S) == 5
    assert last_body(server) == {"contents": contents}
    gemini.count_tokens(full, S)
    assert last_body(server) == {
        "generateContentRequest": {"model": "models/gemini-x", "contents": contents, **extra}
    }
    vertex_.count_tokens(full, S)
    assert last_body(server) == {"contents": contents, **extra}
    assert server.requests[-1].path.endswith(":countTokens")
    gemini.close()
    vertex_.close()


def test_embeddings_are_requested_in_each_apis_format(server: Loopback) -> None:
    server.handler = replies(GeminiDialect.vectors)
    gemini = gemini_at(server)
    gemini.embed(("a", "b"), 2, S)
    assert server.requests[-1].path.endswith(":batchEmbedContents")
    assert last_body(server)["requests"][1] == {
        "model": "models/gemini-x",
        "content": {"parts": [{"text": "b"}]},
        "outputDimensionality": 2,
    }
    vertex_ = vertex_at(server)
    with pytest.raises(e.ProviderGarbage):
        vertex_.embed(("a", "b"), 2, S)
    assert server.requests[-1].path.endswith(":predict")
    assert last_body(server) == {
        "instances": [{"content": "a"}, {"content": "b"}],
        "parameters": {"outputDimensionality": 2},
    }
    gemini.close()
    vertex_.close()


# -- answers -----------------------------------------------------------------------------------------------------------


def test_a_tool_call_has_the_signature_that_must_be_returned(server: Loopback) -> None:
    part = {"functionCall": {"name": "f", "args": None}, "thoughtSignature": "sig=="}
    server.handler = replies(dump({"candidates": [{"finishReason": "STOP", "content": {"parts": [part]}}]}))
    provider = gemini_at(server)
    assert provider.complete(PROMPT, S).tool_calls == (ToolCall("f", "{}", "", "sig=="),)
    provider.close()


def test_a_blocked_prompt_is_content_blocked(server: Loopback) -> None:
    blocked = dump({"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {}})
    provider = gemini_at(server)
    server.handler = replies(blocked)
    with pytest.raises(e.ContentBlocked, match="PROHIBITED_CONTENT"):
        provider.complete(PROMPT, S)
    server.handler = streams(sse(blocked))
    with pytest.raises(e.ContentBlocked):
        next(each(provider, PROMPT, S))
    provider.close()


@pytest.mark.parametrize("reason", ["SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"])
def test_a_blocked_answer_has_finish_safety(reason: str, server: Loopback) -> None:
    server.handler = replies(dump({"candidates": [{"finishReason": reason, "index": 0}]}))
    provider = gemini_at(server)
    answer = provider.complete(PROMPT, S)
    assert (answer.finish, answer.parts) == (Finish.SAFETY, ())
    provider.close()


def test_a_finish_reason_on_every_chunk_ends_the_stream_once(server: Loopback) -> None:
    """Older models set a finish reason on every chunk."""
    form = GeminiDialect()
    server.handler = streams(sse(form.event("a", "")), sse(form.event("b", "")), sse(form.event("c", "")))
    provider = gemini_at(server)
    chunks = list(each(provider, PROMPT, S))
    assert [chunk.finish for chunk in chunks] == [None, None, Finish.STOP]
    assert "".join(chunk.text for chunk in chunks) == "abc"
    provider.close()


def test_events_without_a_candidate_are_skipped(server: Loopback) -> None:
    form = GeminiDialect()
    usage = sse(dump({"usageMetadata": form.usage_document()}))
    server.handler = streams(usage, sse(form.event("a")), usage, sse(form.event("", "")))
    provider = gemini_at(server)
    chunks = list(each(provider, PROMPT, S))
    assert [chunk.text for chunk in chunks if chunk.text] == ["a"]
    assert chunks[0].usage == form.usage
    provider.close()


# -- errors ------------------------------------------------------------------------------------------------------------

QUOTA_ID = "GenerateContentInputTokensPerModelPerMinute-FreeTier"


def error_body(*details: object, code: int = 429, status: str = "RESOURCE_EXHAUSTED") -> Any:
    return {"error": {"code": code, "message": "secret", "status": status, "details": list(details)}}


def quota_failure(*violations: object) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.QuotaFailure", "violations": list(violations)}


def retry_info(delay: object) -> dict[str, object]:
    return {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": delay}


@pytest.mark.parametrize(
    ("document", "headers", "seconds", "quota_id"),
    [
        (
            error_body(quota_failure({"quotaMetric": "m", "quotaId": QUOTA_ID}), retry_info("33s")),
            {},
            33.0,
            QUOTA_ID,
        ),
        (error_body(retry_info("0.25s")), {}, 0.25, ""),
        (error_body(retry_info("7s")), {"retry_after": "99"}, 7.0, ""),
        (error_body(), {"retry_after": "99"}, 99.0, ""),
        (error_body(), {}, None, ""),
        ([error_body(quota_failure({"quotaId": QUOTA_ID}), retry_info("5s"))], {}, 5.0, QUOTA_ID),
        (error_body(retry_info("soon"), retry_info(7), retry_info("-1s"), retry_info("1e9s")), {}, None, ""),
        (error_body(quota_failure("x", {}, {"quotaId": ""}, {"quotaId": "a\r\nb<c>"})), {}, None, "abc"),
        (
            error_body(7, None, {"@type": 7}, {"@type": "google.rpc.QuotaFailure", "violations": 7}),
            {},
            None,
            "",
        ),
        (error_body(quota_failure({"quotaId": "x" * 5000})), {}, None, "x" * 120),
        ({"error": {"details": 7}}, {}, None, ""),
    ],
)
def test_a_429_has_retry_after_and_quota_id_where_they_are_valid(
    document: object, headers: dict[str, str], seconds: float | None, quota_id: str, server: Loopback
) -> None:
    server.handler = replies(dump(document), 429, **headers)
    for provider in (gemini_at(server), vertex_at(server)):
        with pytest.raises(e.ProviderRateLimited) as caught:
            provider.complete(PROMPT, S)
        assert (caught.value.retry_after, caught.value.quota_id) == (seconds, quota_id)
        with pytest.raises(e.ProviderRateLimited) as caught:
            list(each(provider, PROMPT, S))
        assert (caught.value.retry_after, caught.value.quota_id) == (seconds, quota_id)
        provider.close()


def test_a_429_inside_a_stream_has_them_too(server: Loopback) -> None:
    server.handler = streams(sse(dump(error_body(quota_failure({"quotaId": QUOTA_ID}), retry_info("33s")))))
    provider = gemini_at(server)
    with pytest.raises(e.ProviderRateLimited) as caught:
        next(each(provider, PROMPT, S))
    assert (caught.value.retry_after, caught.value.quota_id) == (33.0, QUOTA_ID)
    provider.close()


def test_an_invalid_api_key_is_provider_auth_not_rejected(server: Loopback) -> None:
    info = {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"}
    server.handler = replies(dump(error_body(info, code=400, status="INVALID_ARGUMENT")), 400)
    provider = gemini_at(server)
    with pytest.raises(e.ProviderAuth):
        provider.complete(PROMPT, S)
    provider.close()


def test_a_rejected_request_has_googles_status_and_reason(server: Loopback) -> None:
    server.handler = replies(dump(error_body(code=400, status="INVALID_ARGUMENT")), 400)
    provider = gemini_at(server)
    with pytest.raises(e.ProviderRejected) as caught:
        provider.complete(PROMPT, S)
    assert str(caught.value) == "the provider rejected the request (400): secret"
    assert (caught.value.status, caught.value.provider_code) == (400, "")
    provider.close()


def test_a_403_about_a_file_of_the_request_is_no_fault_of_our_credentials(server: Loopback) -> None:
    document = error_body(code=403, status="PERMISSION_DENIED")
    for message, kind in (
        ("You do not have permission to access the File abc or it may not exist.", e.ProviderRejected),
        ("Permission denied on resource project demo.", e.ProviderAuth),
    ):
        document["error"]["message"] = message
        server.handler = replies(dump(document), 403)
        provider = gemini_at(server)
        with pytest.raises(kind):
            provider.complete(PROMPT, S)
        provider.close()


def test_a_seed_beyond_googles_range_is_folded_into_it() -> None:
    for seed, sent in (
        (0, 0),
        (-(2**31), -(2**31)),
        (2**31 - 1, 2**31 - 1),
        (2**31, -(2**31)),
        (2**63 - 1, -1),
    ):
        body = json.loads(google.request_body(replace(PROMPT, seed=seed)))
        assert body["generationConfig"]["seed"] == sent


@pytest.mark.parametrize(
    ("reason", "finish", "word"),
    [
        ("MALFORMED_FUNCTION_CALL", Finish.OTHER, "MALFORMED_FUNCTION_CALL"),
        ("UNEXPECTED_TOOL_CALL", Finish.OTHER, "UNEXPECTED_TOOL_CALL"),
        ("LANGUAGE", Finish.OTHER, "LANGUAGE"),
        ("BRAND_NEW", Finish.OTHER, "BRAND_NEW"),
        ("RECITATION", Finish.SAFETY, ""),
        ("MAX_TOKENS", Finish.LENGTH, ""),
    ],
)
@pytest.mark.parametrize("calls", [(), (("1", "f", {}),)])
def test_every_reason_keeps_its_meaning(
    reason: str, finish: Finish, word: str, calls: Any, server: Loopback
) -> None:
    document = json.loads(GeminiDialect().answer("x", calls=calls))
    document["candidates"][0]["finishReason"] = reason
    provider = gemini_at(server)
    server.handler = replies(dump(document))
    answer = provider.complete(PROMPT, S)
    assert (answer.finish, answer.reason) == (finish, word)
    server.handler = streams(sse(dump(document)))
    last = list(each(provider, PROMPT, S))[-1]
    assert (last.finish, last.reason) == (finish, word)
    provider.close()


@pytest.mark.parametrize(
    ("model", "given", "sent"),
    [
        ("gemini-3-pro", ("", ""), (google.NO_SIGNATURE, None)),  # of parallel calls only the first has one
        ("gemini-3-pro", ("c2ln", ""), ("c2ln", None)),
        ("gemini-2.5-pro", ("", ""), (None, None)),
    ],
)
def test_a_turn_that_lost_its_signature_goes_to_gemini_3_with_googles_value(
    model: str, given: tuple[str, str], sent: tuple[str | None, str | None], server: Loopback
) -> None:
    calls = tuple(ToolCall("f", "{}", f"c{number}", it) for number, it in enumerate(given))
    results = tuple(ToolResult("f", "1", f"c{number}") for number in range(2))
    prompt = Prompt((*PROMPT.messages, Message("assistant", calls), Message("tool", results)))
    provider = build(ProviderSpec("gemini", model, server.url, api_key="k"), SystemClock())
    for call in (provider.complete, lambda prompt, s: list(each(provider, prompt, s))):
        server.handler = replies(ANSWER, content_type="application/json")
        call(prompt, S)
        parts = last_body(server)["contents"][1]["parts"]
        assert tuple(it.get("thoughtSignature") for it in parts) == sent
    provider.close()
