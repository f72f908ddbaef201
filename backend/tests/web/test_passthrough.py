"""The same dialect in and out: bodies and answers travel as they are, but for what is the gateway's."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from hypothesis import HealthCheck, given
from hypothesis import strategies as st

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.core.clock import Clock
from knowalledge.gateway.ports import Provider
from knowalledge.providers import registry
from knowalledge.providers.descriptor import ProviderSpec
from tests.support.loopback import Handler, Loopback, replies, sse, streams
from tests.support.properties import examples

USER = {"role": "user", "content": "hi"}
CHAT, GENERATE = "/v1/chat/completions", "/v1beta/models/m:generateContent"
STREAM = "/v1beta/models/m:streamGenerateContent"
# Spacing, order and unknown fields that no encoder of ours would write.
ANSWER = b"""{ "id":"chatcmpl-9", "x_new":{"a":[1,2.50]}, "model":"gpt-x-2026",
 "choices":[{"index":0,"message":{"role":"assistant","content":"hey","reasoning_content":"hm","annotations":[]},
 "logprobs":{"content":[]},"finish_reason":"stop"}],"service_tier":"flex",
 "usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8,"completion_tokens_details":{"audio_tokens":1}}}"""
GOOGLE = b"""{"candidates": [{"content": {"role": "model","parts": [{"text": "thought", "thought": true},
 {"text": "hey", "thoughtSignature": "c2ln"}]}, "finishReason": "STOP", "avgLogprobs": -0.25, "index": 0}],
 "usageMetadata": {"promptTokenCount": 5, "candidatesTokenCount": 3, "totalTokenCount": 8, "trafficType": "ON_DEMAND"},
 "modelVersion": "g-001", "newField": [1, 2.50]}"""
HEAD = b'{"id":"c1","object":"chat.completion.chunk","choices":['
EVENTS = [
    HEAD + b'{"index":0,"delta":{"role":"assistant","content":""}}],"usage":null}',
    HEAD + b'{"index":0,"delta":{"reasoning_content":"hm"}}],  "obfuscation":"xyz"}',
    HEAD + b'{"index":0,"delta":{"content":"he"},"logprobs":{"content":[]}}]}',
    HEAD + b'{"index":0,"delta":{"content":"y"},"finish_reason":"stop"}]}',
]
USAGE_EVENT = HEAD + b'],"usage":{"prompt_tokens":5,"completion_tokens":3,"x":1}}'


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback(replies(ANSWER))
    yield server
    server.stop()


@pytest.fixture
def client_of(
    server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., FlaskClient]]:
    """A gateway whose model has a target at the loopback server for each provider."""
    made: list[Provider] = []
    clients: dict[tuple[str, ...], FlaskClient] = {}
    build = registry.build

    def remember(spec: ProviderSpec, clock: Clock) -> Provider:
        made.append(build(spec, clock))
        return made[-1]

    def client(*providers: str) -> FlaskClient:
        if providers in clients:
            return clients[providers]
        quota = "quota: {rpm: 1000000, tpm: 1000000000}"
        targets = "".join(
            f"{{name: t{tier}, provider: {it}, model: theirs, tier: {tier}, api_key: k,"
            f" base_url: {server.url}{'/v1' * (it == 'openai')}, {quota}}}, "
            for tier, it in enumerate(providers)
        )
        config = tmp_path / "c.yaml"
        config.write_text(f"models: {{m: {{targets: [{targets}]}}}}\n")
        app = wiring.create_app(Settings.load(environ={}, config=str(config)))
        clients[providers] = app.test_client()
        return clients[providers]

    monkeypatch.setattr(registry, "build", remember)
    yield client
    for provider in made:
        provider.close()


def sent(server: Loopback) -> Any:
    return json.loads(server.requests[-1].body)


CHAT_BODY = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "s", "cache_control": {"type": "ephemeral"}},
        {"role": "user", "name": "ann", "content": [{"type": "text", "text": "hi", "x": 1}]},
        {"role": "assistant", "content": None, "reasoning_content": "hm", "tool_calls": [
            {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{ }"}}]},
        {"role": "tool", "tool_call_id": "a", "content": "1"},
        {"role": "system", "content": "in the middle"},
        {"role": "user", "content": [
            {"type": "image_url", "image_url": {"url": "https://x/y", "detail": "low"}},
            {"type": "file", "file": {"file_data": "data:application/pdf;base64,AA==", "filename": "a.pdf"}}]},
    ],
    "reasoning_effort": "minimal", "parallel_tool_calls": False, "verbosity": "low", "service_tier": "flex",
    "prediction": {"type": "content", "content": "x"}, "chat_template_kwargs": {"enable_thinking": False},
    "max_completion_tokens": 9, "top_k": 3, "logprobs": True, "top_logprobs": 2, "logit_bias": {"5": 1},
    "tools": [{"type": "function", "function": {"name": "f", "strict": False, "parameters": {}}}],
    "response_format": {"type": "json_schema", "json_schema": {"name": "mine", "strict": False, "schema": {}}},
    "user": "u", "metadata": {"a": "b"}, "store": True, "modalities": ["text", "audio"], "audio": {"voice": "v"},
}  # fmt: skip


def test_a_chat_body_goes_on_as_it_came_but_for_the_models_name(
    client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    assert client_of("openai").post(CHAT, json=CHAT_BODY).status_code == 200
    assert sent(server) == {**CHAT_BODY, "model": "theirs"}


def test_a_streamed_chat_body_asks_for_usage_besides(
    client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    server.handler = streams(*map(sse, EVENTS), sse(USAGE_EVENT), sse(b"[DONE]"))
    for given_, wanted in (
        (None, {"include_usage": True}),
        ({}, {"include_usage": True}),
        ({"include_usage": False}, {"include_usage": True}),
        ({"include_obfuscation": False}, {"include_usage": True, "include_obfuscation": False}),
    ):
        body = {**CHAT_BODY, "stream": True, **({} if given_ is None else {"stream_options": given_})}
        assert client_of("openai").post(CHAT, json=body).get_data()
        assert sent(server) == {**CHAT_BODY, "model": "theirs", "stream": True, "stream_options": wanted}


def test_an_answer_comes_back_byte_for_byte(client_of: Callable[..., FlaskClient], server: Loopback) -> None:
    found = client_of("openai").post(CHAT, json=CHAT_BODY)
    assert found.data == ANSWER
    assert found.content_type == "application/json"
    assert found.headers["X-Target"].startswith("t0")
    server.handler = replies(GOOGLE)
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    assert client_of("gemini").post(GENERATE, json=body).data == GOOGLE


def test_a_stream_comes_back_event_for_event(client_of: Callable[..., FlaskClient], server: Loopback) -> None:
    server.handler = streams(*map(sse, EVENTS), sse(USAGE_EVENT), sse(b"[DONE]"))
    body = {"messages": [USER], "stream": True}
    plain = b"".join(b"data: " + it + b"\n\n" for it in EVENTS)
    assert client_of("openai").post(CHAT, json=body).data == plain + b"data: [DONE]\n\n"
    body["stream_options"] = {"include_usage": True}
    found = client_of("openai").post(CHAT, json=body).data
    assert found == plain + b"data: " + USAGE_EVENT + b"\n\ndata: [DONE]\n\n"


def test_a_google_stream_comes_back_event_for_event_or_as_an_array_that_ends_in_its_bracket(
    client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    events = [
        b'{"candidates": [{"content": {"parts": [{"text": "hm", "thought": true}]}}], "responseId": "r"}',
        b'{"candidates": [{"content": {"parts": [{"text": "hey"}]}}], "x": 1}',
        b'{"candidates": [{"finishReason": "STOP", "finishMessage": "x"}], "usageMetadata": {"promptTokenCount": 5}}',
    ]
    server.handler = streams(*map(sse, events))
    body = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    found = client_of("gemini").post(f"{STREAM}?alt=sse", json=body).data
    assert found == b"".join(b"data: " + it + b"\n\n" for it in events)
    found = client_of("vertex").post(STREAM, json=body).data
    assert found == b"[" + b",".join(events) + b"]"


GOOGLE_BODY = {
    "contents": [
        {"role": "user", "parts": [{"text": "hi"}, {"fileData": {"fileUri": "gs://b/o", "mimeType": "a/b"},
            "videoMetadata": {"fps": 2}}]},
        {"role": "model", "parts": [{"text": "hm", "thought": True}, {"functionCall": {"name": "f", "args": {},
            "id": "1"}, "thoughtSignature": "c2ln"}, {"text": "so", "thoughtSignature": "c2lo"},
            {"executableCode": {"language": "PYTHON", "code": "1"}}]},
        {"role": "user", "parts": [{"functionResponse": {"name": "f", "id": "1", "response": {},
            "parts": [{"inlineData": {"mimeType": "image/png", "data": "AA=="}}]}}]},
    ],
    "tools": [{"googleSearch": {}}, {"functionDeclarations": [{"name": "f", "response": {"type": "STRING"},
        "parameters": {"type": "OBJECT", "propertyOrdering": ["a"]}}]}],
    "toolConfig": {"functionCallingConfig": {"mode": "VALIDATED"}, "retrievalConfig": {"languageCode": "de"}},
    "generationConfig": {"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}, "topK": 3,
        "responseLogprobs": True, "mediaResolution": "MEDIA_RESOLUTION_LOW", "responseModalities": ["IMAGE"],
        "speechConfig": {"voiceConfig": {}}, "seed": 7},
    "cachedContent": "cachedContents/1", "labels": {"a": "b"}, "brandNew": {"x": [1]},
    "system_instruction": {"parts": [{"text": "s"}]},
}  # fmt: skip


@pytest.mark.parametrize("provider", ["gemini", "vertex"])
def test_a_google_body_goes_on_as_it_came(
    provider: str, client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    server.handler = replies(GOOGLE)
    client = client_of(provider)
    assert client.post(GENERATE, json={**GOOGLE_BODY, "model": "models/m"}).status_code == 200
    assert sent(server) == GOOGLE_BODY
    no_role = {"contents": [{"parts": [{"text": "hi"}]}], "brandNew": 1}
    client.post(GENERATE, json=no_role)
    assert sent(server) == {"contents": [{"parts": [{"text": "hi"}], "role": "user"}], "brandNew": 1}


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
UNKNOWN = st.dictionaries(st.from_regex(r"x_[a-z]{1,8}", fullmatch=True), JSON, max_size=4)


@examples(100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(UNKNOWN, UNKNOWN, UNKNOWN)
def test_unknown_fields_travel_wherever_they_stand(
    client_of: Callable[..., FlaskClient], server: Loopback, top: Any, message: Any, part: Any
) -> None:
    content = [{"type": "text", "text": "hi", **part}]
    body = {"messages": [{"role": "user", "content": content, **message}], **top}
    server.handler = replies(ANSWER)
    assert client_of("openai").post(CHAT, json=body).data == ANSWER
    assert sent(server) == {**body, "model": "theirs"}
    google = {"contents": [{"role": "user", "parts": [{"text": "hi", **part}], **message}], **top}
    server.handler = replies(GOOGLE)
    assert client_of("gemini").post(GENERATE, json=google).data == GOOGLE
    assert sent(server) == google


UNTRANSLATABLE = [
    ({"logprobs": True}, "logprobs"),
    ({"functions": [{"name": "f"}]}, "functions"),
    ({"modalities": ["audio"]}, "modalities"),
    ({"messages": [{"role": "user", "content": [{"type": "video_url"}]}]}, "messages[0].content[0].type"),
    ({"tools": [{"type": "custom", "custom": {"name": "f"}}]}, "tools[0].type"),
    ({"response_format": {"type": "grammar"}}, "response_format.type"),
    ({"reasoning_effort": "max"}, "reasoning_effort"),
]  # fmt: skip


@pytest.mark.parametrize(("extra", "param"), UNTRANSLATABLE)
def test_what_only_its_own_dialect_can_serve_goes_there_and_nowhere_else(
    extra: Any, param: str, client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    body = {"model": "m", "messages": [USER], **extra}
    found = client_of("gemini").post(CHAT, json=body)
    assert (found.status_code, found.get_json()["error"]["param"]) == (400, param)
    assert not server.requests
    found = client_of("gemini", "openai").post(CHAT, json=body)  # the first tier does not take it
    assert (found.status_code, found.headers["X-Target"][:2]) == (200, "t1")
    assert sent(server) == {**body, "model": "theirs"}


def test_a_repeated_request_gets_the_providers_words_from_the_cache_whole_and_streamed(
    client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    body = {"messages": [USER], "temperature": 0, "x_new": 1}
    client = client_of("openai")
    assert [client.post(CHAT, json=body).data for _ in range(2)] == [ANSWER] * 2
    streamed = client.post(
        CHAT, json={**body, "stream": True, "stream_options": {"include_usage": True}}
    ).data
    events = [json.loads(it[6:]) for it in streamed.split(b"\n\n") if it.startswith(b"data: {")]
    assert [it["object"] for it in events] == ["chat.completion.chunk"] * 3
    assert events[0]["choices"][0]["delta"]["reasoning_content"] == "hm"
    assert events[1]["choices"][0]["finish_reason"] == "stop"
    assert events[2]["usage"]["completion_tokens_details"] == {"audio_tokens": 1}
    assert streamed.endswith(b"data: [DONE]\n\n")
    assert len(server.requests) == 1
    client.post(CHAT, json={**body, "x_new": 2})
    assert len(server.requests) == 2  # an unknown field may change the answer
    client.post(CHAT, json={**body, "user": "somebody else"})
    assert len(server.requests) == 2


def test_a_stream_in_the_cache_is_replayed_event_for_event_and_serves_a_whole_answer(
    client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    server.handler = streams(*map(sse, EVENTS), sse(USAGE_EVENT), sse(b"[DONE]"))
    body = {"messages": [USER], "temperature": 0}
    client = client_of("openai")
    first = client.post(CHAT, json={**body, "stream": True}).data
    assert client.post(CHAT, json={**body, "stream": True}).data == first
    whole = client.post(CHAT, json=body).get_json()
    assert len(server.requests) == 1
    assert whole["choices"][0]["message"] == {
        "role": "assistant",
        "content": "hey",
        "reasoning_content": "hm",
    }
    assert (whole["choices"][0]["finish_reason"], whole["usage"]["x"]) == ("stop", 1)


@pytest.mark.parametrize(
    "handler",
    [
        streams(
            sse(b'{"choices": [{"delta": {"role": "assistant"}}]}'),
            sse(b'{"error": {"code": 400, "message": "m"}}'),
        ),
        replies(b'{"error": {"code": 400, "message": "m"}}', content_type="application/json"),
    ],
)
def test_an_error_before_the_first_content_has_a_status(
    handler: Handler, client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    server.handler = handler
    found = client_of("openai").post(CHAT, json={"messages": [USER], "stream": True})
    assert found.status_code == 400


def test_an_error_after_content_is_an_event_after_the_providers(
    client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    server.handler = streams(*map(sse, EVENTS[:3]), sse(b'{"error": {"code": 503, "message": "m"}}'))
    found = client_of("openai").post(CHAT, json={"messages": [USER], "stream": True}).data
    *passed, error, rest = found.split(b"\n\n")
    assert passed == [b"data: " + it for it in EVENTS[:3]]
    assert (json.loads(error[6:])["error"]["code"], rest) == ("provider_unavailable", b"")


def test_an_answer_without_what_clients_rely_on_is_completed_and_keeps_the_rest(
    client_of: Callable[..., FlaskClient], server: Loopback
) -> None:
    """The ``openai`` SDK skips events that do not name their kind."""
    server.handler = replies(
        b'{"choices": [{"message": {"content": "hey", "x": 1}, "finish_reason": "stop"}], "y": 2}'
    )
    whole = client_of("openai").post(CHAT, json={"messages": [USER]}).get_json()
    assert whole["id"].startswith("chatcmpl-")
    assert (whole["object"], whole["model"], whole["y"]) == ("chat.completion", "m", 2)
    assert whole["choices"][0]["message"] == {"role": "assistant", "content": "hey", "x": 1}
    server.handler = streams(
        sse(b'{"choices": [{"delta": {"content": "h", "x": 1}}]}'),
        sse(b""),
        sse(b'{"choices": [{"delta": {"content": "ey"}}]}'),
        sse(b'{"choices": [{"delta": {}, "finish_reason": "stop"}]}'),
    )
    streamed = client_of("openai").post(CHAT, json={"messages": [USER], "stream": True}).data
    events = [json.loads(it[6:]) for it in streamed.split(b"\n\n") if it.startswith(b"data: {")]
    assert {(it["object"], it["model"], it["choices"][0]["index"]) for it in events} == {
        ("chat.completion.chunk", "m", 0)
    }
    assert len({it["id"] for it in events}) == 1
    assert events[0]["choices"][0]["delta"] == {"content": "h", "x": 1}
