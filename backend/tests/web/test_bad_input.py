"""What hostile and mistaken clients send, in every dialect: a typed error in its form, an outcome, nothing held."""

import json
import socket
from collections.abc import Callable
from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient

from knowalledge.core import errors as e
from knowalledge.gateway.domain.prompt import Text
from tests.support.web_app import ScriptedProvider, held, outcomes


class Dialect:
    """Where a dialect is asked, and how its errors read."""

    def __init__(self, path: str, good: Any, code: Callable[[Any], str], text: Callable[[Any], str]) -> None:
        self.path, self.good, self.code, self.text = path, good, code, text


def _reason(body: Any) -> str:
    return str(body["error"]["details"][0]["reason"]).lower()


NATIVE = Dialect("/api/v1/generate", {"prompt": "hi"}, lambda it: it["code"], lambda it: it["detail"])
OPENAI = Dialect(
    "/v1/chat/completions",
    {"messages": [{"role": "user", "content": "hi"}]},
    lambda it: it["error"]["code"],
    lambda it: it["error"]["message"],
)
GEMINI = Dialect(
    "/v1beta/models/m:generateContent",
    {"contents": [{"parts": [{"text": "hi"}]}]},
    _reason,
    lambda it: it["error"]["message"],
)
ALL = [pytest.param(it, id=it.path) for it in (NATIVE, OPENAI, GEMINI)]
DEEP = b"[" * 100_000


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        pytest.param(b"not json", 400, "invalid_request", id="not JSON"),
        pytest.param(b"", 400, "invalid_request", id="empty"),
        pytest.param(b"null", 400, "invalid_request", id="null"),
        pytest.param(b"[]", 400, "invalid_request", id="an array"),
        pytest.param(b"{}", 400, "invalid_request", id="an empty object"),
        pytest.param(b'{"temperature": NaN}', 400, "invalid_request", id="NaN"),
        pytest.param(b'{"temperature": 1e999}', 400, "invalid_request", id="out of range"),
        pytest.param(b'{"model": "\xff\xfe"}', 400, "invalid_request", id="invalid UTF-8"),
        pytest.param(b'{"model": "\\ud800"}', 400, "invalid_request", id="half a surrogate pair"),
        pytest.param(b'{"x": ' + DEEP, 400, "invalid_request", id="nested without end"),
        pytest.param(
            b'{"contents": {"system_instruction": ' + DEEP, 400, "invalid_request", id="nested names"
        ),
        pytest.param(b'"' + b"a" * 10_000_000 + b'"', 413, "payload_too_large", id="10 MB"),
    ],
)
def test_a_body_that_cannot_be_read_is_refused(
    open_client: FlaskClient,
    provider: ScriptedProvider,
    dialect: Dialect,
    body: bytes,
    status: int,
    code: str,
) -> None:
    found = open_client.post(dialect.path, data=body)
    assert found.status_code == status
    assert dialect.code(found.json) == code
    assert len(dialect.text(found.json)) < 500
    assert found.headers["X-Request-ID"]
    assert not provider.prompts
    assert outcomes(open_client) == {"invalid": 1}
    assert held(open_client) == 0


@pytest.mark.parametrize("dialect", ALL)
def test_a_body_without_a_length_is_bounded_too(open_client: FlaskClient, dialect: Dialect) -> None:
    found = open_client.post(
        dialect.path, environ_overrides={"wsgi.input": Endless(), "wsgi.input_terminated": True}
    )
    assert found.status_code == 413


class Endless:
    """A body that does not end."""

    def read(self, size: int = -1) -> bytes:
        assert size > 0
        return b" " * size

    def readline(self, size: int = -1) -> bytes:
        return self.read(size)


class Broken:
    """A body that ends before it is whole, as the server tells it."""

    def read(self, size: int = -1) -> bytes:
        raise OSError("unexpected end of file")


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize("extra", [{"CONTENT_LENGTH": "100"}, {"wsgi.input_terminated": True}])
def test_a_body_that_ends_early_is_the_clients_fault(
    open_client: FlaskClient, dialect: Dialect, extra: dict[str, Any]
) -> None:
    found = open_client.post(dialect.path, environ_overrides={"wsgi.input": Broken(), **extra})
    assert (found.status_code, dialect.code(found.json)) == (400, "invalid_request")
    assert outcomes(open_client) == {"invalid": 1}


@pytest.mark.parametrize("dialect", [NATIVE, OPENAI, GEMINI])
def test_unknown_fields_are_refused_in_our_own_dialect_and_tolerated_in_the_others(
    open_client: FlaskClient, dialect: Dialect
) -> None:
    found = open_client.post(dialect.path, json={**dialect.good, "made_up": 1})
    assert found.status_code == (400 if dialect is NATIVE else 200)


FAILURES = [
    (e.ProviderUnavailable("down"), 502, "provider_unavailable", "provider_failed"),
    (e.ProviderTimeout("late"), 504, "provider_timeout", "provider_timeout"),
    (e.ProviderGarbage("what?"), 502, "provider_garbage", "provider_garbage"),
    (e.ProviderRejected("no"), 400, "provider_rejected", "invalid"),
    (e.ProviderRejected("no", status=404), 404, "provider_rejected", "invalid"),
    (e.ProviderRejected("no", status=413), 413, "provider_rejected", "invalid"),
    (e.ProviderRejected("no", status=422), 422, "provider_rejected", "invalid"),
    (e.ProviderAuth("who?"), 502, "provider_auth", "provider_failed"),
    (e.ProviderRateLimited("later", retry_after=70), 429, "provider_rate_limited", "provider_limited"),
    (e.ContentBlocked("blocked"), 400, "content_blocked", "blocked"),
    (RuntimeError("the key is hunter2"), 500, "internal", "internal"),
]


@pytest.mark.parametrize("dialect", ALL)
@pytest.mark.parametrize(("error", "status", "code", "outcome"), FAILURES)
def test_each_failure_of_the_provider_has_its_status_its_outcome_and_holds_nothing(
    open_client: FlaskClient,
    provider: ScriptedProvider,
    capfd: pytest.CaptureFixture[str],
    dialect: Dialect,
    error: Exception,
    status: int,
    code: str,
    outcome: str,
) -> None:
    provider.error = error
    found = open_client.post(dialect.path, json=dialect.good)
    if dialect is GEMINI and code == "content_blocked":  # there it is an answer
        assert (found.status_code, found.get_json()["promptFeedback"]) == (200, {"blockReason": "OTHER"})
    else:
        assert found.status_code == status
        assert dialect.code(found.json) == code
    assert ("Retry-After" in found.headers) == (status == 429)
    assert outcomes(open_client) == {outcome: 1}
    assert held(open_client) == 0
    assert "hunter2" not in found.text + "".join(capfd.readouterr())


@pytest.mark.parametrize("dialect", ALL)
def test_a_spent_quota_says_when_to_come_back(client: FlaskClient, dialect: Dialect) -> None:
    for _ in range(3):
        assert client.post(dialect.path, json=dialect.good).status_code == 200
    found = client.post(dialect.path, json=dialect.good)
    assert (found.status_code, dialect.code(found.json)) == (429, "deadline_too_short")
    assert 0 < int(found.headers["Retry-After"]) <= 61
    assert outcomes(client) == {"ok": 3, "refused": 1}


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/api/v1/generate", {"prompt": "hi", "stream": True}),
        ("/v1/chat/completions", {**OPENAI.good, "stream": True}),
        ("/v1beta/models/m:streamGenerateContent?alt=sse", GEMINI.good),
        ("/v1beta/models/m:streamGenerateContent", GEMINI.good),
    ],
)
def test_a_client_that_leaves_in_the_middle_ends_the_call_and_holds_nothing(
    open_client: FlaskClient, provider: ScriptedProvider, path: str, body: Any
) -> None:
    provider.parts = (Text("hello"),) * 50
    found = open_client.post(path, json=body, buffered=False)
    pieces = found.iter_encoded()
    while b"hello" not in next(pieces):
        pass
    assert (provider.closed, held(open_client) > 0) == (False, True)
    found.close()
    assert provider.closed
    assert held(open_client) == 0
    assert outcomes(open_client) == {"client_gone": 1}


@pytest.mark.parametrize("dialect", ALL)
def test_a_client_that_leaves_before_the_answer_ends_the_call_and_holds_nothing(
    open_client: FlaskClient, provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, dialect: Dialect
) -> None:
    ours, theirs = socket.socketpair()
    seen: list[int] = []

    def complete(prompt: Any, timeout: float) -> None:
        seen.append(held(open_client))
        theirs.close()
        gevent.sleep(60)

    monkeypatch.setattr(provider, "complete", complete)
    with ours:
        found = open_client.post(dialect.path, json=dialect.good, environ_overrides={"gunicorn.sock": ours})
    assert found.status_code == 499
    assert seen[0] > 0
    assert held(open_client) == 0
    assert outcomes(open_client) == {"client_gone": 1}


def test_what_failed_is_counted_by_route_and_status(open_client: FlaskClient) -> None:
    open_client.post("/v1/chat/completions", data=b"x")
    open_client.post(f"/{json.dumps('x')}")
    text = open_client.get("/metrics").text
    assert 'knowalledge_http_responses_total{route="/v1/chat/completions",status="400"} 1.0' in text
    assert 'knowalledge_http_responses_total{route="unmatched",status="404"} 1.0' in text


@pytest.mark.parametrize(
    ("body", "param"),
    [("null", None), ("[]", None), ('{"prompt": 5}', "prompt"), ('{"nope": 5}', "nope"), ('{"a"', None)],
)
def test_the_field_at_fault_is_a_field(client: FlaskClient, body: str, param: str | None) -> None:
    assert client.post("/api/v1/generate", data=body).get_json().get("param") == param
