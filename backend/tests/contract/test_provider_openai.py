"""What is particular to OpenAI's API and the servers that implement it."""

import json
from collections.abc import Iterator
from typing import Any

import gevent
import pytest

from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import Blob, FileRef, Message, Prompt, Text, Tool, ToolCall, ToolResult
from knowalledge.gateway.ports import Provider
from knowalledge.providers import openai, openai_requests
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.registry import build
from tests.contract.provider_dialects import OpenAiDialect, dump
from tests.support.chunks import each
from tests.support.loopback import Loopback, replies, sse, streams

S = 20.0
PROMPT = Prompt((Message("user", (Text("hi"),)),))
FORM = OpenAiDialect()


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback(replies(FORM.answer()))
    yield server
    server.stop()


@pytest.fixture
def provider(server: Loopback) -> Iterator[Provider]:
    provider = FORM.provider(server.url)
    yield provider
    provider.close()


# -- requests ----------------------------------------------------------------------------------------------------------


FULL_PROMPT = Prompt(
    messages=(
        Message("user", (Text("look"), Blob("image/png", b"\x89PNG"), FileRef("https://x/y"))),
        Message("assistant", (Text("I look"), ToolCall("f", '{"b":1}', "c1"), ToolCall("g", ""))),
        Message("tool", (ToolResult("f", '{"x":1}', "c1"), ToolResult("g", "plain"), Text("and?"))),
        Message("assistant", (ToolCall("f", "{}", "c2"),)),
        Message("user", ()),
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
    json_schema='{"type":"object"}',
    tools=(Tool("f", "does f", '{"z":1,"a":2}'), Tool("g")),
    tool_choice="f",
)
FULL_BODY = {
    "model": "m",
    "messages": [
        {"role": "system", "content": "be brief"},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "look"},
                {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw=="}},
                {"type": "image_url", "image_url": {"url": "https://x/y"}},
            ],
        },
        {
            "role": "assistant",
            "content": "I look",
            "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"b":1}'}},
                {"id": "call_1_2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": '{"x":1}'},
        {"role": "tool", "tool_call_id": "call_1_2", "content": "plain"},
        {"role": "user", "content": "and?"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c2", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "user", "content": ""},
    ],
    "max_tokens": 7,
    "temperature": 0.5,
    "top_p": 0.9,
    "top_k": 3,
    "seed": 42,
    "stop": ["END"],
    "presence_penalty": 0.1,
    "frequency_penalty": 0.2,
    "response_format": {
        "type": "json_schema",
        "json_schema": {"name": "answer", "strict": False, "schema": {"type": "object"}},
    },
    "tools": [
        {
            "type": "function",
            "function": {"name": "f", "description": "does f", "parameters": {"z": 1, "a": 2}},
        },
        {
            "type": "function",
            "function": {"name": "g", "description": "", "parameters": {"type": "object"}},
        },
    ],
    "tool_choice": {"type": "function", "function": {"name": "f"}},
    "stream": True,
    "stream_options": {"include_usage": True},
}


def test_every_field_of_a_prompt_is_sent() -> None:
    body = openai_requests.request_body("m", FULL_PROMPT, stream=True)
    assert json.loads(body) == FULL_BODY
    assert b'{"z":1,"a":2}' in body


def test_unset_fields_of_a_prompt_are_not_sent() -> None:
    """Servers reject unknown fields."""
    assert json.loads(openai_requests.request_body("m", PROMPT, stream=False)) == {
        "model": "m",
        "messages": [{"role": "user", "content": "hi"}],
    }


def test_json_without_a_schema_is_json_object() -> None:
    body = json.loads(openai_requests.request_body("m", Prompt(PROMPT.messages, json=True), stream=False))
    assert body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_a_tool_choice_is_passed_on(choice: str) -> None:
    prompt = Prompt(PROMPT.messages, tools=(Tool("f"),), tool_choice=choice)
    assert json.loads(openai_requests.request_body("m", prompt, stream=False))["tool_choice"] == choice


def test_invalid_json_is_rejected_before_it_is_embedded() -> None:
    for prompt in (
        Prompt(PROMPT.messages, json_schema='{}},"model":"dearer","x":{"y":{'),
        Prompt(PROMPT.messages, tools=(Tool("f", "", "{},"),)),
    ):
        with pytest.raises(e.ProviderRejected):
            openai_requests.request_body("m", prompt, stream=False)


def test_openai_itself_gets_max_completion_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its reasoning models reject max_tokens; other servers know only that."""
    server = Loopback(replies(FORM.answer()))
    limited = Prompt(PROMPT.messages, max_output_tokens=7)
    try:
        for openai_url in (server.url, "https://api.openai.com/v1"):
            monkeypatch.setattr(openai, "URL", openai_url)
            provider = build(ProviderSpec("openai", "m", server.url), SystemClock())
            provider.complete(limited, S)
            provider.close()
    finally:
        server.stop()
    first, second = (json.loads(it.body) for it in server.requests)
    assert (first["max_completion_tokens"], second["max_tokens"]) == (7, 7)
    assert len(first) == len(second) == 3


def test_the_api_key_is_sent_in_a_header(server: Loopback, provider: Provider) -> None:
    provider.complete(PROMPT, S)
    assert server.requests[0].headers["authorization"] == "Bearer k-1"
    assert server.requests[0].path == "/v1/chat/completions"
    open_ = build(ProviderSpec("openai", "m", server.url), SystemClock())
    open_.complete(PROMPT, S)
    assert "authorization" not in server.requests[1].headers
    open_.close()


# -- answers -----------------------------------------------------------------------------------------------------------


def delta(*calls: dict[str, Any], finish: str | None = None) -> bytes:
    return sse(dump({"choices": [{"delta": {"tool_calls": list(calls)}, "finish_reason": finish}]}))


def call_delta(
    index: int | None, arguments: str, name: str | None = None, key: str | None = None
) -> dict[str, Any]:
    return {"index": index, "id": key, "function": {"name": name, "arguments": arguments}}


def test_tool_calls_are_assembled_from_their_deltas(server: Loopback, provider: Provider) -> None:
    server.handler = streams(
        delta(call_delta(0, "", "f", "c1")),
        delta(call_delta(0, '{"a"'), call_delta(1, "{", "g", "c2")),
        delta(call_delta(1, "}"), call_delta(0, ":1}")),
        delta(finish="tool_calls"),
        sse(b"[DONE]"),
    )
    last = list(each(provider, PROMPT, S))[-1]
    assert last.tool_calls == (ToolCall("f", '{"a":1}', "c1"), ToolCall("g", "{}", "c2"))
    assert last.finish is Finish.TOOL_CALLS


@pytest.mark.parametrize("index", [0, None])
def test_calls_that_share_an_index_are_distinguished_by_their_ids(
    index: int | None, server: Loopback, provider: Provider
) -> None:
    """Some servers use one index for all calls."""
    server.handler = streams(
        delta(call_delta(index, "{}", "f", "c1")),
        delta(call_delta(index, "{", "g", "c2")),
        delta(call_delta(index, "}", "", "c2")),
        delta(finish="stop"),
    )
    last = list(each(provider, PROMPT, S))[-1]
    assert last.tool_calls == (ToolCall("f", "{}", "c1"), ToolCall("g", "{}", "c2"))
    assert last.finish is Finish.TOOL_CALLS


def test_a_refusal_of_the_model_is_text_with_finish_safety(server: Loopback, provider: Provider) -> None:
    message = {"content": None, "refusal": "I cannot"}
    server.handler = replies(dump({"choices": [{"message": message, "finish_reason": "stop"}]}))
    answer = provider.complete(PROMPT, S)
    assert (answer.text, answer.finish) == ("I cannot", Finish.SAFETY)
    server.handler = streams(
        sse(dump({"choices": [{"delta": message}]})),
        sse(dump({"choices": [{"delta": {}, "finish_reason": "stop"}]})),
    )
    chunks = list(each(provider, PROMPT, S))
    assert ("".join(it.text for it in chunks), chunks[-1].finish) == ("I cannot", Finish.SAFETY)


def test_a_finished_stream_without_done_is_complete(server: Loopback, provider: Provider) -> None:
    server.handler = streams(sse(FORM.event("a")), sse(FORM.event("", "")))
    assert list(each(provider, PROMPT, S))[-1].finish is Finish.STOP


def test_a_stream_ends_at_done_without_waiting_for_the_connection(
    server: Loopback, provider: Provider
) -> None:
    def handle(exchange: Any) -> None:
        exchange.start_stream()
        for event in FORM.stream("a", "b"):
            exchange.send_chunk(event)
        exchange.hang()

    server.handler = handle
    with gevent.Timeout(S / 2):
        assert "".join(chunk.text for chunk in each(provider, PROMPT, S)) == "ab"
    assert server.idle.wait(S)


# -- errors ------------------------------------------------------------------------------------------------------------


def test_an_account_without_credit_has_a_long_retry_after(server: Loopback, provider: Provider) -> None:
    server.handler = replies(
        dump({"error": {"type": "insufficient_quota", "code": "insufficient_quota"}}), 429
    )
    with pytest.raises(e.ProviderRateLimited) as caught:
        provider.complete(PROMPT, S)
    assert caught.value.retry_after == 60.0


@pytest.mark.parametrize("code", ["content_filter", "content_policy_violation"])
def test_a_blocked_prompt_is_content_blocked(code: str, server: Loopback, provider: Provider) -> None:
    server.handler = replies(dump({"error": {"code": code, "type": None}}), 400)
    with pytest.raises(e.ContentBlocked):
        provider.complete(PROMPT, S)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"code": 429}, e.ProviderRateLimited),
        ({"type": "rate_limit_error"}, e.ProviderRateLimited),
        ({"type": "invalid_request_error"}, e.ProviderRejected),
        ({"code": "invalid_api_key"}, e.ProviderAuth),
        ({"type": "server_error"}, e.ProviderUnavailable),
        ({"code": [], "type": {}}, e.ProviderUnavailable),
        ("a text", e.ProviderUnavailable),
        ([], e.ProviderUnavailable),
        (7, e.ProviderUnavailable),
    ],
)
def test_an_error_inside_a_stream_is_typed_by_its_name(
    error: object, kind: type[Exception], server: Loopback, provider: Provider
) -> None:
    server.handler = streams(sse(dump({"error": error})))
    with pytest.raises(kind):
        next(each(provider, PROMPT, S))


# -- odd answers, and errors in odd places -----------------------------------------------------------------------------


def choice(message: Any, finish: str | None = "stop", **more: Any) -> bytes:
    """A response that serves as a whole one and as an event."""
    return dump({"choices": [{"message": message, "delta": message, "finish_reason": finish, **more}]})


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (
            {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            "ab",
        ),
        (
            {"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "t"}]}, {"text": "x"}]},
            "x",
        ),
        ({"content": ["a", {"type": "refusal", "refusal": "b"}]}, "ab"),
        ({"content": None, "reasoning_content": "I only thought"}, ""),
        ({"content": ""}, ""),
        ({}, ""),
    ],
)
def test_an_odd_but_whole_answer_is_an_answer(
    message: Any, text: str, server: Loopback, provider: Provider
) -> None:
    server.handler = replies(choice(message))
    assert (provider.complete(PROMPT, S).text, provider.complete(PROMPT, S).finish) == (text, Finish.STOP)
    server.handler = streams(sse(choice(message)), sse(b"[DONE]"))
    chunks = list(each(provider, PROMPT, S))
    assert ("".join(it.text for it in chunks), chunks[-1].finish) == (text, Finish.STOP)


@pytest.mark.parametrize(
    ("document", "kind"),
    [
        ({"error": "it broke"}, e.ProviderUnavailable),
        ({"error": {"message": "x", "code": "429"}}, e.ProviderRateLimited),
        (
            {"error": {"message": "x", "type": "invalid_request_error", "code": "rate_limit_exceeded"}},
            e.ProviderRateLimited,
        ),
        ({"error": {"message": "x", "type": "overloaded_error"}}, e.ProviderUnavailable),
        ({"error": {"message": "x", "code": "context_length_exceeded"}}, e.ProviderRejected),
        ({"object": "error", "message": "x", "type": "BadRequestError", "code": 400}, e.ProviderRejected),
        (
            {"choices": [{"error": {"message": "x", "code": 502}, "message": {"content": ""}}]},
            e.ProviderUnavailable,
        ),
        (
            {"choices": [{"error": {"message": "x", "code": 400}, "delta": {"content": ""}}]},
            e.ProviderRejected,
        ),
    ],
)
def test_an_error_inside_a_200_is_that_error_wherever_it_stands(
    document: Any, kind: type[e.KnowalledgeError], server: Loopback, provider: Provider
) -> None:
    server.handler = replies(dump(document))
    with pytest.raises(kind):
        provider.complete(PROMPT, S)
    server.handler = streams(sse(dump(document)))
    with pytest.raises(kind):
        list(each(provider, PROMPT, S))


@pytest.mark.parametrize(
    ("body", "status", "code", "param"),
    [
        (
            {
                "error": {
                    "message": "m",
                    "type": "invalid_request_error",
                    "code": "model_not_found",
                    "param": None,
                }
            },
            404,
            "model_not_found",
            "",
        ),
        (
            {"error": {"message": "m", "type": "invalid_request_error", "param": "tools[0]", "code": None}},
            400,
            "",
            "tools[0]",
        ),
        (
            {"error": {"message": "m", "type": "exceed_context_size_error"}},
            400,
            "context_length_exceeded",
            "",
        ),
        ({"detail": "m"}, 422, "", ""),
        ({"error": {"message": "m", "code": "no\ncode", "param": "a b"}}, 400, "", ""),
    ],
)
def test_a_rejected_request_has_the_providers_status_code_and_field(
    body: Any, status: int, code: str, param: str, server: Loopback, provider: Provider
) -> None:
    server.handler = replies(dump(body), status)
    with pytest.raises(e.ProviderRejected) as caught:
        provider.complete(PROMPT, S)
    error = caught.value
    assert (error.status, error.provider_code, error.param) == (status, code, param)
    assert error.message == f"the provider rejected the request ({status}): m"


def test_an_account_without_credit_is_a_quota_that_a_short_wait_does_not_free(
    server: Loopback, provider: Provider
) -> None:
    server.handler = replies(dump({"error": {"message": "Insufficient credits", "code": 402}}), 402)
    with pytest.raises(e.ProviderRateLimited) as caught:
        provider.complete(PROMPT, S)
    assert caught.value.retry_after == 60


# -- pairing -----------------------------------------------------------------------------------------------------------


def sent_messages(prompt: Prompt) -> Any:
    return json.loads(openai_requests.request_body("m", prompt, False))["messages"]


def pairs(prompt: Prompt) -> list[tuple[str, str]]:
    """The arguments of each call, and the content of the result that has its id."""
    messages = sent_messages(prompt)
    calls = [call for it in messages for call in it.get("tool_calls", ())]
    ids = [it["id"] for it in calls]
    assert len(set(ids)) == len(ids)
    contents = {it["tool_call_id"]: it["content"] for it in messages if it["role"] == "tool"}
    return [(it["function"]["arguments"], contents[it["id"]]) for it in calls]


@pytest.mark.parametrize(
    ("calls", "results"),
    [
        ((("f", ""), ("f", "")), (("f", ""), ("f", ""))),  # two calls of one function, no ids
        ((("f", "x"), ("f", "y")), (("f", "x"), ("f", "y"))),
        ((("f", "x"), ("f", "x")), (("f", "x"), ("f", "x"))),  # one id for both
        ((("f", "x"), ("f", "")), (("f", "x"), ("f", ""))),
    ],
)
def test_each_call_is_paired_with_its_result(calls: Any, results: Any) -> None:
    turns = tuple(
        message
        for turn in "ab"  # the ids repeat in the next turn
        for message in (
            Message(
                "assistant",
                tuple(ToolCall(f, f'{{"n":"{turn}{n}"}}', key) for n, (f, key) in enumerate(calls)),
            ),
            Message("tool", tuple(ToolResult(f, f"{turn}{n}", key) for n, (f, key) in enumerate(results))),
        )
    )
    assert pairs(Prompt(turns)) == [(f'{{"n":"{it}"}}', it) for it in ("a0", "a1", "b0", "b1")]


def test_results_in_another_order_are_paired_by_their_ids_or_names() -> None:
    calls = Message("assistant", (ToolCall("f", "1", "x"), ToolCall("g", "2", "y"), ToolCall("h", "3")))
    results = Message("tool", (ToolResult("h", "c"), ToolResult("g", "b", "y"), ToolResult("f", "a", "x")))
    assert pairs(Prompt((calls, results))) == [("1", "a"), ("2", "b"), ("3", "c")]


# -- streams that are read too literally -------------------------------------------------------------------------------


def piece(
    index: int | None = 0, key: str | None = None, name: str | None = None, arguments: Any = None
) -> Any:
    return {"index": index, "id": key, "function": {"name": name, "arguments": arguments}}


@pytest.mark.parametrize(
    ("pieces", "calls"),
    [
        (
            [piece(0, "a", "read", '{"p"'), piece(0, None, "read", ":1"), piece(0, None, "read", "}")],
            [("read", '{"p":1}')],
        ),
        ([piece(0, "a", "read", '{"p"'), piece(0, "a", "read", ":1}")], [("read", '{"p":1}')]),
        ([piece(0, "a", "get_"), piece(0, None, "weather", "{}")], [("get_weather", "{}")]),
        ([piece(0, "a", "f", "{}"), piece(0, "b", "f", "{}")], [("f", "{}"), ("f", "{}")]),
        (
            [piece(0, None, "f", '{"a":1}'), piece(0, None, "f", '{"a":2}')],
            [("f", '{"a":1}'), ("f", '{"a":2}')],
        ),
        ([piece(None, "a", "f", "{}"), piece(None, "b", "g", "{}")], [("f", "{}"), ("g", "{}")]),
        ([piece(0, "a", "f", {"p": 1})], [("f", '{"p":1}')]),
        ([piece(0, "a", "f"), piece(0, None, None, "")], [("f", "{}")]),
        ([piece(1, "b", "g", "{}"), piece(0, "a", "f", "{}")], [("g", "{}"), ("f", "{}")]),
    ],
)
def test_calls_in_odd_pieces_are_what_they_mean(
    pieces: Any, calls: Any, server: Loopback, provider: Provider
) -> None:
    server.handler = streams(*map(delta, pieces), sse(b""), delta(finish="tool_calls"))
    last = list(each(provider, PROMPT, S))[-1]
    assert [(it.name, it.arguments) for it in last.tool_calls] == calls
    assert last.finish is Finish.TOOL_CALLS


# -- unfinished answers ------------------------------------------------------------------------------------------------

CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"p'}}


@pytest.mark.parametrize(
    ("reason", "calls", "finish", "word"),
    [
        ("stop", [], Finish.STOP, ""),
        ("stop", [CALL], Finish.TOOL_CALLS, ""),
        ("length", [], Finish.LENGTH, ""),
        ("length", [CALL], Finish.LENGTH, ""),
        ("tool_calls", [CALL], Finish.TOOL_CALLS, ""),
        ("tool_calls", [], Finish.OTHER, "tool_calls"),
        ("content_filter", [], Finish.SAFETY, ""),
        ("content_filter", [CALL], Finish.SAFETY, ""),
        ("sunshine", [], Finish.OTHER, "sunshine"),
        ("sunshine", [CALL], Finish.OTHER, "sunshine"),
    ],
)
def test_every_reason_keeps_its_meaning_with_and_without_calls(
    reason: str, calls: Any, finish: Finish, word: str, server: Loopback, provider: Provider
) -> None:
    server.handler = replies(choice({"content": "x", "tool_calls": calls}, reason))
    answer = provider.complete(PROMPT, S)
    assert (answer.finish, answer.reason, len(answer.tool_calls)) == (finish, word, len(calls))
    server.handler = streams(sse(choice({"content": "x", "tool_calls": calls}, reason)))
    last = list(each(provider, PROMPT, S))[-1]
    assert (last.finish, last.reason, len(last.tool_calls)) == (finish, word, len(calls))
