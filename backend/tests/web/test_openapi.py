"""The OpenAPI document against the routes that there are, and against what they really answer."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from werkzeug.exceptions import HTTPException

from knowalledge import app as wiring
from knowalledge.cli.openapi import rendered
from knowalledge.config.settings import Settings
from knowalledge.core import errors as e
from knowalledge.gateway.domain.prompt import ToolCall
from knowalledge.providers import registry
from knowalledge.web.docs.document import variables
from tests.support.fake_provider import FakeProvider
from tests.support.web_app import ScriptedProvider
from tests.topics.conftest import png

FILE = Path(__file__).parents[3] / "docs" / "openapi.json"
HOW = "run: .venv/bin/knowalledge openapi > docs/openapi.json"
DOCUMENT: dict[str, Any] = json.loads(rendered())


def _strict(validator: Any, properties: Any, instance: Any, schema: Any) -> Any:
    """``properties``, and nothing but these: what we answer must be told."""
    yield from Draft202012Validator.VALIDATORS["properties"](validator, properties, instance, schema)
    if isinstance(instance, dict) and schema.get("type") == "object":
        for extra in set(instance) - set(properties):
            yield from validator.descend(instance[extra], False, path=extra)


STRICT: Any = extend(Draft202012Validator, {"properties": _strict})


def fits(instance: Any, schema: Any) -> None:
    STRICT({**schema, "components": DOCUMENT["components"]}).validate(instance)


def answers(path: str, method: str, status: str = "200", media: str = "application/json") -> Any:
    response = DOCUMENT["paths"][path][method]["responses"][status]
    if "$ref" in response:
        response = DOCUMENT["components"]["responses"][response["$ref"].rsplit("/", 1)[1]]
    return response["content"][media]


@pytest.fixture
def client(open_client: FlaskClient) -> FlaskClient:
    return open_client


def test_every_route_is_in_the_document_and_nothing_else_is(client: FlaskClient) -> None:
    app: Flask = client.application
    routes = {(rule.rule, method) for rule in app.url_map.iter_rules() for method in rule.methods or ()}
    wanted = {(rule, method) for rule, method in routes if method not in ("HEAD", "OPTIONS")}
    address = app.url_map.bind("localhost")
    found = set()
    for path, methods in DOCUMENT["paths"].items():
        for method in methods:
            plain = re.sub(r"\{[a-z_]+\}", "x", path)
            try:
                rule, _ = address.match(plain, method.upper(), return_rule=True)
            except HTTPException:
                pytest.fail(f"{method.upper()} {path} is in the document, and no route")
            found.add((rule.rule, method.upper()))
    assert not wanted - found, "add these routes to the operations of their feature"


def test_every_method_of_geminis_dialect_is_in_the_document(client: FlaskClient) -> None:
    told = client.post("/v1beta/models/m:nothing").get_json()["error"]["message"]
    methods = {it.strip() for it in told.partition("are ")[2].split(",")}
    listed = {it.partition("}:")[2] for it in DOCUMENT["paths"] if it.startswith("/v1beta/models/{model}:")}
    assert methods == listed


def test_the_file_in_the_documentation_is_the_document() -> None:
    assert FILE.read_bytes() == rendered(), HOW


def test_the_served_document_is_the_document(client: FlaskClient) -> None:
    found = client.get("/api/openapi.json")
    assert found.json == json.loads(rendered())
    assert found.headers["Cache-Control"] == "public, max-age=300"


def _nodes(node: Any) -> Any:
    yield node
    for inner in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        yield from _nodes(inner)


def test_the_document_is_sound() -> None:
    assert DOCUMENT["openapi"].startswith("3.1")
    for node in _nodes(DOCUMENT):
        if isinstance(node, dict) and isinstance(node.get("$ref"), str):
            target: Any = DOCUMENT
            for step in node["$ref"].removeprefix("#/").split("/"):
                target = target[step]
    for schema in DOCUMENT["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)
    names = [it["operationId"] for path in DOCUMENT["paths"].values() for it in path.values()]
    assert len(names) == len(set(names))
    for path, methods in DOCUMENT["paths"].items():
        for it in methods.values():
            declared = [given["name"] for given in it["parameters"] if given.get("in") == "path"]
            assert declared == variables(path)


# -- what is really answered -----------------------------------------------------------------------------------------

TEXT = {"text": "hi"}
CONTENTS = {"contents": [{"parts": [TEXT]}]}
CHAT = {"messages": [{"role": "user", "content": "hi"}]}
VERTEX = "/v1beta1/projects/{project}/locations/{location}/publishers/{publisher}/models"
POSTS: list[tuple[str, Any]] = [
    ("/api/v1/generate", {"prompt": "hi"}),
    ("/v1/chat/completions", CHAT),
    ("/v1/embeddings", {"input": "hi"}),
    ("/v1/embeddings", {"input": "hi", "encoding_format": "base64"}),
    ("/v1beta/models/{model}:generateContent", CONTENTS),
    ("/v1beta/models/{model}:streamGenerateContent", CONTENTS),
    ("/v1/models/{model}:countTokens", CONTENTS),
    ("/v1beta/models/{model}:embedContent", {"content": {"parts": [TEXT]}}),
    (f"{VERTEX}/{{model}}:batchEmbedContents", {"requests": [{"content": {"parts": [TEXT]}}]}),
    (f"{VERTEX}/{{model}}:predict", {"instances": [{"content": "hi"}]}),
]


def real(path: str) -> str:
    return re.sub(r"\{[a-z_]+\}", "m", path)


@pytest.mark.parametrize("tools", [False, True])
@pytest.mark.parametrize(("path", "body"), POSTS)
def test_what_is_answered_is_what_the_document_says(
    client: FlaskClient, provider: ScriptedProvider, path: str, body: Any, tools: bool
) -> None:
    if tools:
        provider.parts = (ToolCall("f", '{"x":1}', "c", "sig"),)
    schema = DOCUMENT["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]
    fits(body, schema)
    found = client.post(real(path), json=body)
    assert found.status_code == 200
    fits(found.json, answers(path, "post")["schema"])


@pytest.mark.parametrize(
    "path",
    [
        "/v1/models",
        "/v1/models/{model}",
        "/v1beta/models",
        "/v1beta/models/{model}",
        VERTEX,
        f"{VERTEX}/{{model}}",
        "/api/health",
        "/api/ready",
        "/api/health/detailed",
        "/api/quota/stats",
        "/api/queue/stats",
    ],
)
def test_what_is_read_is_what_the_document_says(client: FlaskClient, path: str) -> None:
    client.post("/api/v1/generate", json={"prompt": "hi"})
    found = client.get(real(path))
    assert found.status_code == 200
    fits(found.json, answers(path, "get")["schema"])


STREAMS: list[tuple[str, str, Any]] = [
    ("/api/v1/generate", "", {"prompt": "hi", "stream": True}),
    ("/v1/chat/completions", "", {**CHAT, "stream": True, "stream_options": {"include_usage": True}}),
    ("/v1beta/models/{model}:streamGenerateContent", "?alt=sse", CONTENTS),
]


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize(("path", "query", "body"), STREAMS)
def test_every_event_of_a_stream_is_what_the_document_says(
    client: FlaskClient, provider: ScriptedProvider, path: str, query: str, body: Any, fails: bool
) -> None:
    if fails:
        provider.error, provider.after = e.ProviderRateLimited("x", retry_after=1), 1
    text = client.post(real(path) + query, json=body).text
    schema = answers(path, "post", media="text/event-stream")["x-event-data"]
    data = [it.removeprefix("data: ") for it in text.splitlines() if it.startswith("data: ")]
    events = [json.loads(it) for it in data if it != "[DONE]"]
    assert len(events) > 1
    for event in events:
        fits(event, schema)


@pytest.mark.parametrize(("path", "body"), [*POSTS[:2], POSTS[4]])
@pytest.mark.parametrize(
    ("error", "status"),
    [(e.ProviderTimeout("x"), "5XX"), (e.ProviderRateLimited("x", retry_after=70), "429"), (None, "4XX")],
)
def test_every_error_is_what_the_document_says(
    client: FlaskClient,
    provider: ScriptedProvider,
    path: str,
    body: Any,
    error: Exception | None,
    status: str,
) -> None:
    provider.error = error
    found = client.post(real(path), json=body if error else {})
    assert str(found.status_code).startswith(status.rstrip("X"))
    fits(found.json, answers(path, "post", status, found.content_type)["schema"])


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/v1/topics/{topic}", "?detail=deep&level=beginner&lang=fr&count=3"),
        ("/api/v1/topics/{topic}/subtopics", ""),
        ("/api/v1/topics/{topic}/explanations", "?subtopics=a,b"),
        ("/api/v1/topics/{topic}/quiz", ""),
        ("/api/v1/topics/{topic}/related", "?count=3&lang=en"),
    ],
)
def test_topics_are_what_the_document_says(
    path: str, query: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}\n")
    monkeypatch.setattr(registry, "build", lambda spec, clock: FakeProvider())
    client = wiring.create_app(Settings.load(environ={}, config=str(config))).test_client()
    found = client.get(real(path) + query)
    assert found.status_code == 200
    fits(found.json, answers(path, "get")["schema"])
    refused = client.get(f"{real(path)}?nonsense=1")
    fits(refused.json, answers(path, "get", "4XX", "application/problem+json")["schema"])


def test_a_picture_is_seen_as_the_document_says(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    config = tmp_path / "c.yaml"
    config.write_text("models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}\n")
    monkeypatch.setattr(registry, "build", lambda spec, clock: FakeProvider())
    client = wiring.create_app(Settings.load(environ={}, config=str(config))).test_client()
    found = client.post("/api/v1/topics/from-image", data=png())
    assert found.status_code == 200
    fits(found.json, answers("/api/v1/topics/from-image", "post")["schema"])


def test_the_page_needs_no_other_host_and_runs_nothing_but_its_own_script(client: FlaskClient) -> None:
    found = client.get("/api/docs")
    assert found.status_code == 200
    assert not re.search(r"(?:src|href)=[\"']?(?:https?:)?//", found.text)
    assert "innerHTML" not in found.text
    policy = found.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
