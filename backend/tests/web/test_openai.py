"""OpenAI's dialect over a real application with a scripted provider."""

import base64
import json
import struct
from typing import Any

import pytest
from flask.testing import FlaskClient

from knowalledge.core import errors as e
from knowalledge.gateway.api.openai import schemas
from knowalledge.gateway.api.openai.prompts import prompt_of
from knowalledge.gateway.api.openai.stream import ChatStream
from knowalledge.gateway.domain.answer import Finish, Usage
from knowalledge.gateway.domain.events import QueuePosition
from knowalledge.gateway.domain.prompt import Blob, FileRef, Message, Text, Tool, ToolCall, ToolResult
from tests.support.web_app import ScriptedProvider, held, outcomes

USER = {"role": "user", "content": "hi"}
PIXEL = base64.b64encode(b"\x89PNG").decode()


@pytest.fixture
def client(open_client: FlaskClient) -> FlaskClient:
    return open_client


def ask(client: FlaskClient, *messages: Any, **body: Any) -> Any:
    return client.post("/v1/chat/completions", json={"model": "m", "messages": messages or (USER,), **body})


def chunks(text: str) -> list[Any]:
    data = [line.removeprefix("data: ") for line in text.splitlines() if line.startswith("data: ")]
    return [it if it == "[DONE]" else json.loads(it) for it in data]


def test_an_answer_has_the_form_that_the_sdks_read(client: FlaskClient) -> None:
    found = ask(client)
    assert found.status_code == 200
    body = found.json
    assert body["object"] == "chat.completion"
    assert body["id"] == f"chatcmpl-{found.headers['X-Request-ID']}"
    assert body["choices"] == [
        {
            "index": 0,
            "message": {"role": "assistant", "content": "hello world", "refusal": None},
            "finish_reason": "stop",
            "logprobs": None,
        }
    ]
    assert body["usage"]["prompt_tokens"] == 5
    assert body["usage"]["completion_tokens"] == 3
    assert body["usage"]["total_tokens"] == 8
    assert body["created"] > 1_700_000_000
    assert found.headers["RateLimit"].startswith('"rpm";r=999999')


def test_thinking_counts_as_completion_and_is_told_apart(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.usage = Usage(10, 4, 6, 2)
    usage = ask(client).json["usage"]
    assert (usage["completion_tokens"], usage["total_tokens"]) == (10, 20)
    assert usage["completion_tokens_details"] == {"reasoning_tokens": 6}
    assert usage["prompt_tokens_details"] == {"cached_tokens": 2}


@pytest.mark.parametrize(
    ("finish", "told"),
    [(Finish.LENGTH, "length"), (Finish.SAFETY, "content_filter"), (Finish.OTHER, "other")],
)
def test_every_way_to_stop_has_its_name(
    client: FlaskClient, provider: ScriptedProvider, finish: Finish, told: str
) -> None:
    provider.finish = finish
    assert ask(client).json["choices"][0]["finish_reason"] == told


def test_every_field_reaches_the_provider(client: FlaskClient, provider: ScriptedProvider) -> None:
    schema = {"type": "object", "properties": {"b": {"type": "string"}, "a": {"type": "string"}}}
    found = ask(
        client,
        {"role": "system", "content": "be brief"},
        {"role": "developer", "content": [{"type": "text", "text": "be kind"}]},
        USER,
        max_completion_tokens=7,
        temperature=0,
        top_p=0.5,
        seed=42,
        stop=["x", "y"],
        presence_penalty=1,
        frequency_penalty=-1,
        reasoning_effort="low",
        response_format={
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": schema, "strict": True},
        },
        tools=[{"type": "function", "function": {"name": "f", "description": "d", "parameters": schema}}],
        tool_choice={"type": "function", "function": {"name": "f"}},
        user="somebody",
        made_up={"tolerated": True},
    )
    assert found.status_code == 200
    prompt = provider.prompt
    assert prompt.system == "be brief\nbe kind"
    assert prompt.messages == (Message("user", (Text("hi"),)),)
    assert (prompt.max_output_tokens, prompt.temperature, prompt.top_p) == (7, 0, 0.5)
    assert (prompt.seed, prompt.stop) == (42, ("x", "y"))
    assert (prompt.presence_penalty, prompt.frequency_penalty) == (1, -1)
    assert prompt.thinking_budget == 1024
    assert prompt.json
    assert json.loads(prompt.json_schema) == schema
    assert prompt.tools == (Tool("f", "d", prompt.json_schema),)
    assert prompt.tool_choice == "f"


def test_a_single_stop_and_the_older_max_tokens_are_read(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    ask(client, stop="x", max_tokens=9)
    assert provider.prompt.stop == ("x",)
    assert provider.prompt.max_output_tokens == 9


def test_images_sound_and_documents_are_parts(client: FlaskClient, provider: ScriptedProvider) -> None:
    content = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://example.com/cat.jpeg?x=1"}},
        {"type": "input_audio", "input_audio": {"data": PIXEL, "format": "mp3"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": f"data:application/pdf;base64,{PIXEL}"}},
    ]
    assert ask(client, {"role": "user", "content": content}).status_code == 200
    assert provider.prompt.messages[0].parts == (
        Text("look"),
        Blob("image/png", b"\x89PNG"),
        FileRef("https://example.com/cat.jpeg?x=1", "image/jpeg"),
        Blob("audio/mpeg", b"\x89PNG"),
        Blob("application/pdf", b"\x89PNG"),
    )


@pytest.mark.parametrize(
    "url",
    ["file:///etc/passwd", "data:image/png,abc", "data:;base64,AA==", "data:image/png;base64,!", "http://["],
)
def test_an_image_that_nobody_can_read_is_refused(client: FlaskClient, url: str) -> None:
    found = ask(client, {"role": "user", "content": [{"type": "image_url", "image_url": {"url": url}}]})
    assert found.status_code == 400
    assert found.json["error"]["param"] == "messages[0].content[0]"


def test_a_call_and_its_results_go_through_as_two_turns(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    calls = [
        {"id": "c1", "type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}},
        {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
    ]
    found = ask(
        client,
        USER,
        {"role": "assistant", "content": None, "tool_calls": calls},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "one"}]},
    )
    assert found.status_code == 200
    assert provider.prompt.messages[1:] == (
        Message("assistant", (ToolCall("f", '{"x": 1}', "c1"), ToolCall("g", "{}", "c2"))),
        Message(
            "tool", (ToolResult("f", "one", "c1"), ToolResult("g", "two", "c2"))
        ),  # in the order of the calls
    )


def test_a_call_of_the_model_is_told_with_an_id_of_its_own(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.parts = (ToolCall("f", '{"x":1}'), ToolCall("f", "{}"))
    choice = ask(client).json["choices"][0]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"]["content"] is None
    first, second = choice["message"]["tool_calls"]
    assert first["function"] == {"name": "f", "arguments": '{"x":1}'}
    assert first["type"] == "function"
    assert first["id"] != second["id"]


@pytest.mark.parametrize("stream", [True, False])
def test_the_signature_of_a_call_goes_out_and_comes_back(
    client: FlaskClient, provider: ScriptedProvider, stream: bool
) -> None:
    provider.parts = (ToolCall("f", "{}", "c", "sig"),)
    found = ask(client, stream=stream)
    message = chunks(found.text)[1]["choices"][0]["delta"] if stream else found.json["choices"][0]["message"]
    (call,) = message["tool_calls"]
    assert call["extra_content"] == {"google": {"thought_signature": "sig"}}
    ask(
        client,
        USER,
        {"role": "assistant", "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c", "content": "1"},
    )
    assert provider.prompt.messages[1].parts == (ToolCall("f", "{}", "c", "sig"),)


def test_a_stream_is_chunks_and_ends_with_done(client: FlaskClient, provider: ScriptedProvider) -> None:
    found = ask(client, stream=True)
    assert found.content_type == "text/event-stream; charset=utf-8"
    assert found.headers["RateLimit-Policy"].startswith('"rpm";q=1000000;w=60')
    got = chunks(found.text)
    assert got[-1] == "[DONE]"
    deltas = [it["choices"][0]["delta"] for it in got[:-1]]
    assert deltas[0] == {"role": "assistant", "content": ""}
    assert "".join(it.get("content", "") for it in deltas) == "hello world"
    assert deltas[-1] == {}
    assert [it["choices"][0]["finish_reason"] for it in got[:-1]] == [None] * 4 + ["stop"]
    assert all(it["object"] == "chat.completion.chunk" and it["model"] == "m" for it in got[:-1])
    assert all("usage" not in it for it in got[:-1])
    assert provider.closed


def test_a_stream_tells_usage_at_its_end_when_it_is_asked_to(client: FlaskClient) -> None:
    got = chunks(ask(client, stream=True, stream_options={"include_usage": True}).text)
    assert [it["usage"] for it in got[:-2]] == [None] * 5
    assert got[-2]["choices"] == []
    assert got[-2]["usage"]["total_tokens"] == 8


def test_streamed_calls_are_numbered(client: FlaskClient, provider: ScriptedProvider) -> None:
    provider.parts = (ToolCall("f", "{}", "a"), ToolCall("g", "{}"))
    got = chunks(ask(client, stream=True).text)
    calls = [call for it in got[:-1] for call in it["choices"][0]["delta"].get("tool_calls", ())]
    assert [(it["index"], it["function"]["name"]) for it in calls] == [(0, "f"), (1, "g")]
    assert calls[0]["id"] == "a"
    assert calls[1]["id"]
    assert got[-2]["choices"][0]["finish_reason"] == "tool_calls"


def test_an_error_in_the_middle_of_a_stream_is_an_event(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.error, provider.after = e.ProviderGarbage("cut"), 2
    found = ask(client, stream=True)
    assert found.status_code == 200
    got = chunks(found.text)
    assert got[-1]["error"]["code"] == "provider_garbage"
    assert got[-1]["error"]["type"] == "server_error"
    assert held(client) == 0


def test_an_error_before_the_first_byte_of_a_stream_has_a_status(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.error = e.ProviderRateLimited("x", retry_after=70)
    found = ask(client, stream=True)
    assert (found.status_code, found.headers["Retry-After"]) == (429, "70")
    assert found.json["error"]["type"] == "rate_limit_error"


def test_waiting_is_told_as_a_comment() -> None:
    rendered = ChatStream("r", "m", 1, False)
    assert rendered.render(QueuePosition(3, 2.54)) == b": queued position=3 eta_s=2.5\n\n"


def call(name: str, arguments: str) -> dict[str, Any]:
    function = {"name": name, "arguments": arguments}
    return {"role": "assistant", "tool_calls": [{"id": "c", "type": "function", "function": function}]}


@pytest.mark.parametrize(
    ("messages", "extra", "status", "param"),
    [
        ([USER], {"n": 2}, 400, "n"),
        ([USER], {"n": 0}, 400, "n"),
        ([USER], {"temperature": 2.1}, 400, "temperature"),
        ([USER], {"temperature": "hot"}, 400, "temperature"),
        ([USER], {"max_tokens": 0}, 400, "max_tokens"),
        ([USER], {"max_tokens": -1}, 400, "max_tokens"),
        ([USER], {"max_completion_tokens": 10**9}, 400, "max_completion_tokens"),
        ([USER], {"tool_choice": "required"}, 400, "tool_choice"),
        ([USER], {"tool_choice": {"type": "function", "function": {"name": "f"}}}, 400, "tool_choice"),
        (
            [USER],
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": [1]}}]},
            400,
            "tools[0].function.parameters",
        ),
        ([USER], {"model": "mm"}, 404, "model"),
        ([], {}, 400, "messages"),
        ([{"role": "user", "content": " \n"}], {}, 400, "messages"),
        ([{"role": "system", "content": "x"}], {}, 400, "messages"),
        ([{"role": "robot", "content": "x"}], {}, 400, "messages[0].role"),
        ([{"content": "x"}], {}, 400, "messages[0].role"),
        ([USER] * 10_000, {}, 400, "messages"),
        ([USER, {"role": "tool", "tool_call_id": "c", "content": "x"}], {}, 400, "messages[1].tool_call_id"),
        ([USER, call("f", "not json")], {}, 400, "messages[1].tool_calls"),
        ([USER, call("f", '{}}, "x": {"y": {}')], {}, 400, "messages[1].tool_calls"),
        ([USER, call("f", "[1]")], {}, 400, "messages[1].tool_calls"),
    ],
)
def test_bad_input_is_told_in_openais_form(
    client: FlaskClient, provider: ScriptedProvider, messages: list[Any], extra: Any, status: int, param: str
) -> None:
    found = client.post("/v1/chat/completions", json={"model": "m", "messages": messages, **extra})
    assert found.status_code == status
    error = found.get_json()["error"]
    assert error["param"] == param
    assert error["type"] == ("not_found_error" if status == 404 else "invalid_request_error")
    assert error["request_id"] == found.headers["X-Request-ID"]
    assert not provider.prompts
    assert held(client) == 0
    assert outcomes(client) == {"invalid": 1}


def test_unknown_models_name_the_nearest(client: FlaskClient) -> None:
    assert "'m'" in ask(client, model="mn").json["error"]["message"]
    found = client.get("/v1/models/mn")
    assert found.status_code == 404
    assert "'m'" in found.get_json()["error"]["message"]


@pytest.mark.parametrize(
    ("given", "inputs"),
    [("a", ("a",)), (["a", "b"], ("a", "b"))],
)
def test_embeddings_come_as_floats(
    client: FlaskClient, provider: ScriptedProvider, given: Any, inputs: Any
) -> None:
    found = client.post("/v1/embeddings", json={"model": "m", "input": given, "dimensions": 2})
    assert provider.embedded == [(inputs, 2)]
    assert found.get_json()["data"] == [
        {"object": "embedding", "index": index, "embedding": [0.5, -1.25]} for index in range(len(inputs))
    ]
    assert found.get_json()["usage"] == {"prompt_tokens": 4, "total_tokens": 4}
    assert found.headers["X-Target"] == "t"


def test_embeddings_come_as_base64(client: FlaskClient) -> None:
    body = {"model": "m", "input": "a", "encoding_format": "base64"}
    found = client.post("/v1/embeddings", json=body).get_json()["data"][0]["embedding"]
    assert struct.unpack("<2f", base64.b64decode(found)) == (0.5, -1.25)


@pytest.mark.parametrize("given", [[1, 2], [[1], [2]], "", [], [""], ["a", ""], ["a"] * 2049, None, 5])
def test_what_cannot_be_embedded_is_refused(
    client: FlaskClient, provider: ScriptedProvider, given: Any
) -> None:
    found = client.post("/v1/embeddings", json={"model": "m", "input": given})
    assert found.status_code == 400
    assert found.get_json()["error"]["param"] == "input"
    assert not provider.embedded


def test_models_are_listed_and_looked_up(client: FlaskClient) -> None:
    card = {"id": "m", "object": "model", "created": 0, "owned_by": "knowalledge"}
    assert client.get("/v1/models").json == {"object": "list", "data": [card]}
    assert client.get("/v1/models/m").json == card


def test_no_route_and_no_method_are_told_in_openais_form(client: FlaskClient) -> None:
    assert client.post("/v1/nothing").get_json()["error"]["code"] == "not_found"
    found = client.get("/v1/chat/completions")
    assert (found.status_code, found.get_json()["error"]["code"]) == (405, "method_not_allowed")
    assert "POST" in found.headers["Allow"]


@pytest.mark.parametrize(
    ("field", "status"),
    [
        ("only-if-cached", "only"),
        ("no-cache", "bypass"),
        ("max-age=0", "bypass"),  # nothing that is stored is as young
        ("max-age=60", "default"),
        ("max-stale", "default"),
    ],
)
def test_cache_control_of_a_request_reaches_our_caches(field: str, status: str) -> None:
    from knowalledge.gateway.api.cache_control import cache_mode

    assert cache_mode(field) == status


def test_x_server_timeout_is_the_callers_patience(client: FlaskClient, provider: ScriptedProvider) -> None:
    for field in ("12", "99999", "0", "soon"):
        client.post("/v1/chat/completions", json={"messages": [USER]}, headers={"X-Server-Timeout": field})
    assert [round(it) for it in provider.timeouts] == [12, 600, 60, 60]


def test_a_rejected_request_has_the_providers_status_code_reason_and_field(
    open_client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.error = e.ProviderRejected(
        "the provider rejected the request (400): too long",
        provider_code="context_length_exceeded",
        param="messages",
    )
    for stream in (False, True):
        found = open_client.post(
            "/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "stream": stream}
        )
        error = found.get_json()["error"]
        assert (found.status_code, error["code"], error["param"]) == (
            400,
            "context_length_exceeded",
            "messages",
        )
        assert error["type"] == "invalid_request_error"
        assert error["message"].endswith("too long")
    assert len(provider.prompts) == 2  # never sent twice


@pytest.mark.parametrize(
    ("finish", "calls", "told"),
    [
        (Finish.STOP, True, "tool_calls"),
        (Finish.TOOL_CALLS, True, "tool_calls"),
        (Finish.LENGTH, True, "length"),
        (Finish.SAFETY, True, "content_filter"),
        (Finish.OTHER, True, "other"),
        (Finish.STOP, False, "stop"),
        (Finish.LENGTH, False, "length"),
    ],
)
@pytest.mark.parametrize("stream", [False, True])
def test_an_unfinished_answer_is_not_called_finished(
    open_client: FlaskClient, provider: ScriptedProvider, finish: Finish, calls: bool, told: str, stream: bool
) -> None:
    provider.parts, provider.finish = (Text("x"), *[ToolCall("f", '{"p')] * calls), finish
    found = ask(open_client, stream=stream)
    choices = (
        [it["choices"][0] for it in chunks(found.text) if it != "[DONE]"] if stream else found.json["choices"]
    )
    assert choices[-1]["finish_reason"] == told


@pytest.mark.parametrize(
    ("messages", "param"),
    [
        (
            [call("f", "{}"), {"role": "tool", "tool_call_id": "c", "content": "1"}] * 2,
            None,
        ),  # ids may repeat later
        (
            [call("f", "{}"), *[{"role": "tool", "tool_call_id": "c", "content": "1"}] * 2],
            "messages[3].tool_call_id",
        ),
        (
            [
                {"role": "assistant", "tool_calls": call("f", "{}")["tool_calls"] * 2},
                {"role": "tool", "tool_call_id": "c", "content": "1"},
            ],
            "messages[1].tool_calls",
        ),
        (
            [
                {
                    "role": "assistant",
                    "tool_calls": [
                        *call("f", "{}")["tool_calls"],
                        {**call("f", "{}")["tool_calls"][0], "id": "d"},
                    ],
                },
                {"role": "tool", "tool_call_id": "c", "content": "1"},
            ],
            "messages[1].tool_calls",
        ),
    ],
)
def test_ids_that_do_not_pair_are_refused_where_a_body_is_translated(
    messages: Any, param: str | None
) -> None:
    source = json.dumps({"messages": [USER, *messages]}).encode()
    body = schemas.read_chat(source)
    if param is None:
        prompt_of(body, source)
        return
    with pytest.raises(e.InvalidRequest) as caught:
        prompt_of(body, source)
    assert caught.value.param == param


@pytest.mark.parametrize(
    "path", ["/v1//chat/completions", "/v1/chat/completions/", "/v1beta/openai/chat/completions"]
)
@pytest.mark.parametrize("model", ["m", "models/m", "google/m"])
def test_addresses_and_names_may_be_written_as_clients_write_them(
    open_client: FlaskClient, path: str, model: str
) -> None:
    found = open_client.post(path, json={"model": model, "messages": [USER]})
    assert (found.status_code, found.headers.get("X-Degraded")) == (200, None)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (b'{"messages": [{"role": "user", "content": "\\ud800"}]}', "messages[0].content"),
        (
            b'{"messages": [{"role": "user", "content": "ok \\ud83d\\ude00"}, {"x": ["\\udc00!"]}]}',
            "messages[1].x[0]",
        ),
        (b'{"\\udfff": 1}', "the body"),
    ],
)
def test_half_a_surrogate_pair_is_refused_with_its_place(
    client: FlaskClient, body: bytes, param: str
) -> None:
    found = client.post("/v1/chat/completions", data=body)
    assert (found.status_code, found.get_json()["error"]["param"]) == (400, param)


def test_embeddings_take_a_null_encoding(client: FlaskClient) -> None:
    found = client.post("/v1/embeddings", json={"model": "m", "input": "x", "encoding_format": None})
    assert found.get_json()["data"][0]["embedding"] == [0.5, -1.25]
