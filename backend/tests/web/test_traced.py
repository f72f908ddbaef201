"""What each kind of request tells its trace, over a real application and a scripted provider."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.core import errors as e
from knowalledge.observability import feature as observability
from knowalledge.observability.spans import Span
from knowalledge.providers import registry
from tests.support.fake_provider import FakeProvider
from tests.support.web_app import ScriptedProvider

TARGET = "models: {m: {targets: [{name: t, provider: openai, model: theirs, api_key: k}]}}\n"
TRACED = 'tracing: {endpoint: "http://127.0.0.1:1", sample: 1}\n'


class Kept:
    """Takes the place of the exporter."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def put(self, span: Span) -> None:
        self.spans.append(span)

    def start(self) -> None: ...

    def close(self) -> None: ...

    def taken(self) -> dict[str, Span]:
        """What has been put since the last look, by name."""
        found = {it.name: it for it in self.spans}
        self.spans.clear()
        return found


@pytest.fixture
def kept() -> Kept:
    return Kept()


def client(provider: Any, kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch) -> FlaskClient:
    config = folder / "c.yaml"
    config.write_text(TARGET + TRACED)
    monkeypatch.setattr(registry, "build", lambda spec, clock: provider)
    monkeypatch.setattr(observability, "make_exporter", lambda settings, counts: kept)
    return wiring.create_app(Settings.load(environ={}, config=str(config))).test_client()


@pytest.fixture
def scripted(
    provider: ScriptedProvider, kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> FlaskClient:
    return client(provider, kept, tmp_path, monkeypatch)


def test_a_topic_tells_of_its_look_also_where_an_untraced_one_takes_a_shorter_way(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asking = client(FakeProvider(), kept, tmp_path, monkeypatch)
    name = "GET /api/v1/topics/<topic:topic>"
    asking.get("/api/v1/topics/sesame", buffered=True)
    spans = kept.taken()
    assert set(spans) == {name, "cache", "queue", "provider", "settle"}
    assert spans["cache"].attributes["knowalledge.cache.result"] == "miss"
    for _ in range(2):
        assert "hit" in asking.get("/api/v1/topics/sesame", buffered=True).headers["Cache-Status"]
        spans = kept.taken()
        assert set(spans) == {name, "cache"}
        assert spans["cache"].attributes == {
            "knowalledge.cache.result": "hit",
            "knowalledge.cache.layer": "memory",
        }
        assert spans["cache"].parent == spans[name].id
    assert "sesame" not in repr(spans)


def test_embeddings_are_told_as_such(scripted: FlaskClient, kept: Kept) -> None:
    scripted.post("/v1/embeddings", json={"model": "m", "input": "x"})
    attributes = kept.taken()["provider"].attributes
    assert attributes["gen_ai.operation.name"] == "embeddings"
    assert attributes["gen_ai.request.model"] == "theirs"
    assert attributes["gen_ai.usage.input_tokens"] == 4


def test_a_refusal_of_the_provider_is_told_and_its_reservation_released(
    scripted: FlaskClient, provider: ScriptedProvider, kept: Kept
) -> None:
    provider.error = e.ProviderRejected("no")
    assert scripted.post("/api/v1/generate", json={"prompt": "x"}, buffered=True).status_code == 400
    spans = kept.taken()
    assert spans["provider"].attributes["error.type"] == "provider_rejected"
    assert spans["settle"].attributes["knowalledge.settle.ending"] == "released"
    assert spans["provider"].failed
    assert not spans[
        "POST /api/v1/generate"
    ].failed  # a 4xx is no failure of the server (OpenTelemetry's HTTP spans)


def test_a_stream_that_breaks_off_has_failed_whatever_its_status_says(
    scripted: FlaskClient, provider: ScriptedProvider, kept: Kept
) -> None:
    provider.error, provider.after = e.ProviderGarbage("cut"), 1
    answer = scripted.post("/api/v1/generate", json={"prompt": "x", "stream": True}, buffered=True)
    assert answer.status_code == 200
    assert b"event: error" in answer.data
    root = kept.taken()["POST /api/v1/generate"]
    assert (root.failed, root.attributes["error.type"]) == (True, "provider_garbage")


def test_a_stream_that_is_left_is_told_when_it_is_left(scripted: FlaskClient, kept: Kept) -> None:
    answer = scripted.post("/api/v1/generate", json={"prompt": "x", "stream": True})
    pieces: Iterator[bytes] = iter(answer.response)  # type: ignore[arg-type]
    next(pieces)
    assert "POST /api/v1/generate" not in kept.taken()
    answer.close()
    assert "POST /api/v1/generate" in kept.taken()


def test_a_body_that_cannot_be_read_is_told_with_its_code(scripted: FlaskClient, kept: Kept) -> None:
    scripted.post("/api/v1/generate", data=b"{", buffered=True)
    (root,) = kept.taken().values()
    assert root.attributes["error.type"] == "invalid_request"
    assert root.attributes["knowalledge.outcome"] == "invalid"


def test_without_an_address_for_spans_nothing_is_on_the_way_of_a_request(
    provider: ScriptedProvider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "c.yaml"
    config.write_text(TARGET)
    monkeypatch.setattr(registry, "build", lambda spec, clock: provider)
    monkeypatch.setattr(observability, "SpanTracer", None)
    app = wiring.create_app(Settings.load(environ={}, config=str(config)))
    assert "Traced" not in type(app.wsgi_app).__name__
    assert app.test_client().post("/api/v1/generate", json={"prompt": "x"}).status_code == 200
