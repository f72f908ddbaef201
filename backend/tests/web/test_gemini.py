"""Gemini's dialect over a real application with a scripted provider."""

import base64
import json
from typing import Any

import pytest
from flask.testing import FlaskClient

from knowalledge.core import errors as e
from knowalledge.gateway.api.gemini.stream import ContentStream
from knowalledge.gateway.domain.answer import Finish, Usage
from knowalledge.gateway.domain.events import QueuePosition
from knowalledge.gateway.domain.prompt import Blob, FileRef, Message, Text, Tool, ToolCall, ToolResult
from tests.support.web_app import ScriptedProvider, held, outcomes

PIXEL = base64.b64encode(b"\xff\xfe\x89PNG").decode()
HI = [{"role": "user", "parts": [{"text": "hi"}]}]
PLACES = [
    "/v1beta/models/m",
    "/v1/models/m",
    "/v1/publishers/google/models/m",
    "/v1beta1/publishers/google/models/m",
    "/v1/projects/p/locations/us-central1/publishers/google/models/m",
    "/v1beta1/projects/p/locations/global/publishers/google/models/m",
]


@pytest.fixture
def client(open_client: FlaskClient) -> FlaskClient:
    return open_client


def ask(client: FlaskClient, contents: Any = None, **body: Any) -> Any:
    return client.post("/v1beta/models/m:generateContent", json={"contents": contents or HI, **body})


def stream(client: FlaskClient, query: str = "?alt=sse") -> Any:
    return client.post(f"/v1beta/models/m:streamGenerateContent{query}", json={"contents": HI})


def events(text: str) -> list[Any]:
    return [json.loads(it.removeprefix("data: ")) for it in text.splitlines() if it.startswith("data: ")]


@pytest.mark.parametrize("place", PLACES)
def test_an_answer_has_googles_form_at_every_address(client: FlaskClient, place: str) -> None:
    found = client.post(f"{place}:generateContent", json={"contents": HI})
    assert found.status_code == 200
    assert found.get_json()["candidates"] == [
        {
            "content": {"role": "model", "parts": [{"text": "hello"}, {"text": " "}, {"text": "world"}]},
            "finishReason": "STOP",
            "index": 0,
        }
    ]
    assert found.get_json()["usageMetadata"] == {
        "promptTokenCount": 5,
        "candidatesTokenCount": 3,
        "totalTokenCount": 8,
    }
    assert found.get_json()["responseId"] == found.headers["X-Request-ID"]
    assert found.get_json()["modelVersion"] == "m"


def test_usage_tells_thoughts_cache_and_tools_apart(client: FlaskClient, provider: ScriptedProvider) -> None:
    provider.usage = Usage(input=10, output=3, thinking=4, cached=2, tool=1)
    assert ask(client).json["usageMetadata"] == {
        "promptTokenCount": 9,
        "candidatesTokenCount": 3,
        "totalTokenCount": 17,
        "thoughtsTokenCount": 4,
        "cachedContentTokenCount": 2,
        "toolUsePromptTokenCount": 1,
    }


@pytest.mark.parametrize(
    ("finish", "told"),
    [(Finish.LENGTH, "MAX_TOKENS"), (Finish.SAFETY, "SAFETY"), (Finish.TOOL_CALLS, "STOP")],
)
def test_every_way_to_stop_has_its_name(
    client: FlaskClient, provider: ScriptedProvider, finish: Finish, told: str
) -> None:
    provider.finish = finish
    assert ask(client).json["candidates"][0]["finishReason"] == told


CONFIG = {
    "temperature": 0,
    "topP": 0.5,
    "topK": 40.0,
    "candidateCount": 1,
    "maxOutputTokens": 7,
    "stopSequences": ["x"],
    "presencePenalty": 1,
    "frequencyPenalty": -1,
    "seed": 42,
    "responseMimeType": "application/json",
    "responseSchema": {
        "type": "OBJECT",
        "properties": {"max_items": {"type": "ARRAY", "maxItems": "3", "items": {"type": "STRING"}}},
        "propertyOrdering": ["max_items"],
        "nullable": True,
    },
    "thinkingConfig": {"thinkingBudget": -1, "includeThoughts": True},
}
BODY: dict[str, Any] = {
    "systemInstruction": {"parts": [{"text": "be "}, {"text": "brief"}]},
    "generationConfig": CONFIG,
    "safetySettings": [{"category": "HARM_CATEGORY_HARASSMENT", "threshold": "BLOCK_NONE"}],
    "tools": [
        {"functionDeclarations": [{"name": "f", "description": "d", "parameters": {"type": "OBJECT"}}]},
        {"functionDeclarations": [{"name": "g", "parametersJsonSchema": {"type": "object"}}]},
    ],
    "toolConfig": {"functionCallingConfig": {"mode": "ANY", "allowedFunctionNames": ["f"]}},
    "labels": {"some_label": "x"},
    "madeUp": {"tolerated": True},
}


def snake(value: Any) -> Any:
    """The same JSON with the names of its fields in snake_case."""
    if isinstance(value, list):
        return [snake(it) for it in value]
    if isinstance(value, dict):
        return {
            "".join(f"_{c.lower()}" if c.isupper() else c for c in key): snake(it)
            for key, it in value.items()
        }
    return value


@pytest.mark.parametrize("form", ["camelCase", "snake_case"])
def test_every_field_reaches_the_provider(client: FlaskClient, provider: ScriptedProvider, form: str) -> None:
    assert ask(client, **(BODY if form == "camelCase" else snake(BODY))).status_code == 200
    prompt = provider.prompt
    assert prompt.system == "be brief"
    assert prompt.messages == (Message("user", (Text("hi"),)),)
    assert (prompt.temperature, prompt.top_p, prompt.top_k, prompt.seed) == (0, 0.5, 40, 42)
    assert (prompt.max_output_tokens, prompt.stop) == (7, ("x",))
    assert (prompt.presence_penalty, prompt.frequency_penalty) == (1, -1)
    assert prompt.thinking_budget == -1
    assert json.loads(prompt.safety) == BODY["safetySettings"]
    assert prompt.tools == (Tool("f", "d", '{"type":"object"}'),)
    assert prompt.tool_choice == "f"
    assert prompt.json
    if form == "camelCase":
        assert json.loads(prompt.json_schema) == {
            "type": ["object", "null"],
            "properties": {"max_items": {"type": "array", "maxItems": 3, "items": {"type": "string"}}},
        }


@pytest.mark.parametrize(
    ("mode", "names", "tools", "choice"),
    [
        ("AUTO", None, 2, "auto"),
        ("NONE", None, 2, "none"),
        ("ANY", None, 2, "required"),
        ("ANY", ["f", "g"], 2, "required"),
        ("MODE_UNSPECIFIED", None, 2, ""),
    ],
)
def test_the_mode_of_calling_is_kept(
    client: FlaskClient, provider: ScriptedProvider, mode: str, names: Any, tools: int, choice: str
) -> None:
    calling = {"mode": mode, **({"allowedFunctionNames": names} if names else {})}
    ask(client, tools=BODY["tools"], toolConfig={"functionCallingConfig": calling})
    assert (len(provider.prompt.tools), provider.prompt.tool_choice) == (tools, choice)


def test_media_calls_and_results_are_parts(client: FlaskClient, provider: ScriptedProvider) -> None:
    url_safe = PIXEL.replace("+", "-").replace("/", "_").rstrip("=")
    contents = [
        {
            "parts": [
                {"text": "look"},
                {"inlineData": {"mimeType": "image/png", "data": PIXEL}},
                {"inlineData": {"mimeType": "image/png", "data": url_safe}},
                {"fileData": {"fileUri": "gs://b/cat.png"}},
            ]
        },
        {
            "role": "model",
            "parts": [
                {"text": "pondering", "thought": True},
                {"functionCall": {"name": "f", "args": {"x": 1}, "id": "c"}},
            ],
        },
        {
            "role": "user",
            "parts": [{"text": "so?"}, {"functionResponse": {"name": "f", "response": {"r": 2}, "id": "c"}}],
        },
    ]
    assert ask(client, contents).status_code == 200
    image = Blob("image/png", b"\xff\xfe\x89PNG")
    assert provider.prompt.messages == (
        Message("user", (Text("look"), image, image, FileRef("gs://b/cat.png", "image/png"))),
        Message("assistant", (ToolCall("f", '{"x": 1}', "c"),)),
        Message("tool", (ToolResult("f", '{"r": 2}', "c"),)),
        Message("user", (Text("so?"),)),
    )


def test_one_alone_may_stand_for_a_list_of_one(client: FlaskClient, provider: ScriptedProvider) -> None:
    found = ask(
        client,
        {"role": "user", "parts": {"text": "hi"}},
        systemInstruction={"parts": {"text": "be brief"}},
        tools={"functionDeclarations": [{"name": "f"}]},
        safetySettings={"category": "a", "threshold": "b"},
    )
    assert found.status_code == 200
    assert provider.prompt.messages == (Message("user", (Text("hi"),)),)
    assert (provider.prompt.system, provider.prompt.tools) == ("be brief", (Tool("f"),))
    assert json.loads(provider.prompt.safety) == [{"category": "a", "threshold": "b"}]


def test_the_names_within_arguments_are_never_changed(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    part = {"function_call": {"name": "f", "args": {"file_uri": {"mime_type": 1}}}}
    assert ask(client, [{"role": "model", "parts": [part]}]).status_code == 200
    call = provider.prompt.messages[0].parts[0]
    assert isinstance(call, ToolCall)
    assert json.loads(call.arguments) == {"file_uri": {"mime_type": 1}}


def test_a_call_of_the_model_is_told(client: FlaskClient, provider: ScriptedProvider) -> None:
    provider.parts = (ToolCall("f", '{"x":1}', "c"), ToolCall("g", "{}"))
    parts = [
        {"functionCall": {"name": "f", "args": {"x": 1}, "id": "c"}},
        {"functionCall": {"name": "g", "args": {}}},
    ]
    assert ask(client).json["candidates"][0]["content"]["parts"] == parts
    streamed = events(stream(client).text)
    assert [it["candidates"][0]["content"]["parts"][0] for it in streamed[:-1]] == parts


def test_the_signature_of_a_call_goes_out_and_comes_back(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.parts = (ToolCall("f", "{}", "c", "sig"),)
    (part,) = ask(client).json["candidates"][0]["content"]["parts"]
    assert part["thoughtSignature"] == "sig"
    assert events(stream(client).text)[0]["candidates"][0]["content"]["parts"] == [part]
    ask(client, [*HI, {"role": "model", "parts": [part]}])
    assert provider.prompt.messages[1].parts == (ToolCall("f", "{}", "c", "sig"),)


@pytest.mark.parametrize("query", ["?alt=sse", "", "?alt=json"])
def test_a_stream_is_events_or_one_array(client: FlaskClient, provider: ScriptedProvider, query: str) -> None:
    found = stream(client, query)
    if query == "?alt=sse":
        assert found.content_type == "text/event-stream; charset=utf-8"
        got = events(found.text)
    else:
        assert found.content_type == "application/json"
        got = found.json
    texts = [it["candidates"][0]["content"]["parts"][0]["text"] for it in got]
    assert texts == ["hello", " ", "world", ""]
    assert ["finishReason" in it["candidates"][0] for it in got] == [False, False, False, True]
    assert got[-1]["usageMetadata"]["totalTokenCount"] == 8
    assert {it["responseId"] for it in got} == {found.headers["X-Request-ID"]}
    assert provider.closed


@pytest.mark.parametrize("query", ["?alt=sse", ""])
def test_an_error_in_the_middle_of_a_stream_is_its_last_element(
    client: FlaskClient, provider: ScriptedProvider, query: str
) -> None:
    provider.error, provider.after = e.ProviderRateLimited("x", retry_after=9), 1
    found = stream(client, query)
    assert found.status_code == 200
    last = (events(found.text) if query else found.json)[-1]["error"]
    assert (last["code"], last["status"]) == (429, "RESOURCE_EXHAUSTED")
    assert {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "9s"} in last["details"]
    assert held(client) == 0


def test_an_error_before_the_first_byte_of_a_stream_has_a_status(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.error = e.ProviderTimeout("x")
    found = stream(client)
    assert found.status_code == 504
    assert found.json["error"]["status"] == "DEADLINE_EXCEEDED"


@pytest.mark.parametrize("as_array", [True, False])
def test_waiting_is_told_by_empty_lines_because_clients_trip_over_comments(as_array: bool) -> None:
    rendered = ContentStream("r", as_array)
    assert rendered.render(QueuePosition(1, 2.0)) == rendered.heartbeat == b"\n"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"contents": []}, "contents"),
        ({}, "contents"),
        ({"contents": [{"parts": [{"text": "  "}]}]}, "contents"),
        ({"contents": [{"parts": [{}]}]}, "contents[0].parts[0]"),
        ({"contents": [{"parts": [{"executableCode": {}}]}]}, "contents[0].parts[0].executableCode"),
        ({"contents": "hi"}, "contents"),
        ({"contents": HI * 10_000}, "contents"),
        ({"contents": [{"role": "robot", "parts": [{"text": "x"}]}]}, "contents[0].role"),
        (
            {"contents": [{"parts": [{"inlineData": {"mimeType": "image/png", "data": "!"}}]}]},
            "contents[0].parts[0]",
        ),
        (
            {"contents": [{"parts": [{"inlineData": {"mimeType": "png", "data": PIXEL}}]}]},
            "contents[0].parts[0].inlineData.mimeType",
        ),
        (
            {"contents": [{"parts": [{"fileData": {"fileUri": "file:///etc/passwd"}}]}]},
            "contents[0].parts[0]",
        ),
        (
            {"contents": [{"role": "model", "parts": [{"functionCall": {"name": "f", "args": [1]}}]}]},
            "contents[0].parts[0].functionCall.args",
        ),
        ({"contents": HI, "generationConfig": {"temperature": 3}}, "generationConfig.temperature"),
        ({"contents": HI, "generationConfig": {"maxOutputTokens": 0}}, "generationConfig.maxOutputTokens"),
        ({"contents": HI, "generationConfig": {"maxOutputTokens": -1}}, "generationConfig.maxOutputTokens"),
        (
            {"contents": HI, "generationConfig": {"maxOutputTokens": 10**9}},
            "generationConfig.maxOutputTokens",
        ),
        ({"contents": HI, "generationConfig": {"candidateCount": 2}}, "generationConfig.candidateCount"),
        (
            {"contents": HI, "generationConfig": {"responseMimeType": "image/png"}},
            "generationConfig.responseMimeType",
        ),
        (
            {"contents": HI, "generationConfig": {"responseModalities": ["IMAGE"]}},
            "generationConfig.responseModalities",
        ),
        (
            {"contents": HI, "generationConfig": {"responseLogprobs": True}},
            "generationConfig.responseLogprobs",
        ),
        ({"contents": HI, "cachedContent": "cachedContents/x"}, "cachedContent"),
        ({"contents": HI, "tools": [{"googleSearch": {}}]}, "tools[0].googleSearch"),
        (
            {"contents": HI, "systemInstruction": {"parts": [{"fileData": {"fileUri": "gs://x"}}]}},
            "systemInstruction",
        ),
    ],
)
def test_bad_input_is_told_in_googles_form(
    client: FlaskClient, provider: ScriptedProvider, body: Any, param: str
) -> None:
    found = client.post("/v1beta/models/m:generateContent", json=body)
    error = found.get_json()["error"]
    assert (found.status_code, error["code"], error["status"]) == (400, 400, "INVALID_ARGUMENT")
    details = {it["@type"].rsplit(".", 1)[1]: it for it in error["details"]}
    assert details["ErrorInfo"]["reason"] == "INVALID_REQUEST"
    assert details["RequestInfo"]["requestId"] == found.headers["X-Request-ID"]
    assert [it["field"] for it in details["BadRequest"]["fieldViolations"]] == [param]
    assert not provider.prompts
    assert held(client) == 0
    assert outcomes(client) == {"invalid": 1}


def test_a_schema_nested_without_end_is_refused(client: FlaskClient) -> None:
    schema: dict[str, Any] = {"type": "STRING"}
    for _ in range(100):
        schema = {"type": "ARRAY", "items": schema}
    found = ask(client, generationConfig={"responseSchema": schema})
    assert found.status_code == 400
    assert "deeply" in found.json["error"]["message"]


@pytest.mark.parametrize("place", PLACES)
def test_unknown_models_and_methods_are_404_in_googles_form(client: FlaskClient, place: str) -> None:
    for path in (f"{place}n:generateContent", f"{place}:nothing", f"{place}:"):
        found = client.post(path, json={"contents": HI})
        assert found.status_code == 404
        assert found.get_json()["error"]["status"] == "NOT_FOUND"


def test_the_name_of_a_model_may_hold_slashes_and_colons(client: FlaskClient) -> None:
    found = client.post("/v1beta/models/a/b:c:generateContent", json={"contents": HI})
    assert "'m'" in found.get_json()["error"]["message"]  # it was looked up, not misread as a method


@pytest.mark.parametrize(
    "body", [{"contents": HI}, {"generateContentRequest": {"model": "models/m", "contents": HI}}]
)
def test_tokens_are_counted_without_spending_quota(
    client: FlaskClient, provider: ScriptedProvider, body: Any
) -> None:
    found = client.post("/v1beta/models/m:countTokens", json=body)
    assert found.json == {"totalTokens": 5}
    assert provider.prompt.messages == (Message("user", (Text("hi"),)),)
    windows = client.get("/api/quota/stats").get_json()["targets"]["t"]["windows"]
    assert [it["used"] for it in windows] == [0, 0]


def test_a_count_that_fails_has_its_outcome(client: FlaskClient) -> None:
    assert client.post("/v1beta/models/mn:countTokens", json={"contents": HI}).status_code == 404
    assert outcomes(client) == {"invalid": 1}


def test_one_content_is_embedded(client: FlaskClient, provider: ScriptedProvider) -> None:
    content = {"parts": [{"text": "a"}, {"text": "b"}]}
    found = client.post("/v1beta/models/m:embedContent", json={"content": content, "outputDimensionality": 2})
    assert found.json == {"embedding": {"values": [0.5, -1.25]}}
    newer = {"content": content, "embedContentConfig": {"outputDimensionality": 3}}
    client.post("/v1beta/models/m:embedContent", json=newer)
    assert provider.embedded == [(("ab",), 2), (("ab",), 3)]


def test_many_contents_are_embedded_in_one_call(client: FlaskClient, provider: ScriptedProvider) -> None:
    requests = [{"model": "models/m", "content": {"parts": [{"text": it}]}} for it in "ab"]
    found = client.post("/v1/models/m:batchEmbedContents", json={"requests": requests})
    assert found.json == {"embeddings": [{"values": [0.5, -1.25]}] * 2}
    place = "/v1beta1/projects/p/locations/l/publishers/google/models/m:predict"
    body = {"instances": [{"content": "a"}, {"content": "b"}], "parameters": {"outputDimensionality": 2}}
    found = client.post(place, json=body)
    assert found.json == {"predictions": [{"embeddings": {"values": [0.5, -1.25]}}] * 2}
    assert provider.embedded == [(("a", "b"), None), (("a", "b"), 2)]


@pytest.mark.parametrize(
    "requests",
    [
        [],
        [{"content": {"parts": []}}],
        [{"content": {"parts": [{"inlineData": {"mimeType": "image/png", "data": PIXEL}}]}}],
        [
            {"content": {"parts": [{"text": "a"}]}},
            {"content": {"parts": [{"text": "a"}]}, "outputDimensionality": 2},
        ],
    ],
)
def test_what_cannot_be_embedded_is_refused(
    client: FlaskClient, provider: ScriptedProvider, requests: Any
) -> None:
    found = client.post("/v1beta/models/m:batchEmbedContents", json={"requests": requests})
    assert found.status_code == 400
    assert not provider.embedded


def test_models_are_listed_and_looked_up(client: FlaskClient) -> None:
    assert [it["name"] for it in client.get("/v1beta/models").get_json()["models"]] == ["models/m"]
    assert client.get("/v1beta/models/m").get_json()["name"] == "models/m"
    vertex = "/v1beta1/publishers/google/models"
    assert [it["name"] for it in client.get(vertex).get_json()["publisherModels"]] == [
        "publishers/google/models/m"
    ]
    assert client.get(f"{vertex}/m").get_json()["name"] == "publishers/google/models/m"
    assert client.get("/v1beta/models/mn").get_json()["error"]["status"] == "NOT_FOUND"


def test_the_address_that_both_dialects_have_answers_each_client_in_its_own(client: FlaskClient) -> None:
    google = {"x-goog-api-key": "k"}
    assert client.get("/v1/models", headers=google).get_json()["models"][0]["name"] == "models/m"
    assert client.get("/v1/models/m", headers=google).get_json()["name"] == "models/m"
    assert client.get("/v1/models/mn", headers=google).get_json()["error"]["status"] == "NOT_FOUND"
    assert client.get("/v1/models").get_json()["object"] == "list"
    assert client.get("/v1/models/mn").get_json()["error"]["type"] == "not_found_error"


@pytest.mark.parametrize("path", ["/v1beta/nothing", "/v1beta1/nothing", "/v1/projects/p/nothing"])
def test_no_route_is_told_in_googles_form(client: FlaskClient, path: str) -> None:
    assert client.get(path).get_json()["error"]["status"] == "NOT_FOUND"
