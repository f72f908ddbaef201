"""The native API over a real application with a scripted provider."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.core import errors as e
from knowalledge.providers import registry
from knowalledge.quota.ports import Granted, Reservation
from tests.support.web_app import ScriptedProvider


def ask(client: FlaskClient, **body: Any) -> Any:
    return client.post("/api/v1/generate", json={"prompt": "hi", **body})


def events(text: str) -> list[str]:
    return [line.removeprefix("event: ") for line in text.splitlines() if line.startswith("event: ")]


def test_an_answer_has_its_text_usage_and_the_state_of_the_quota(client: FlaskClient) -> None:
    response = ask(client)
    assert response.json["text"] == "hello world"
    assert response.json["usage"]["total_tokens"] == 8
    assert response.headers["RateLimit-Policy"] == '"rpm";q=3;w=60, "tpm";q=1000;qu="tokens";w=60'
    assert response.headers["RateLimit"].startswith('"rpm";r=2;t=60')


def test_a_stream_tells_when_it_started_each_piece_and_the_end(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    response = ask(client, stream=True)
    assert events(response.text) == ["started", "delta", "delta", "delta", "done"]
    assert '"input_tokens":5' in response.text
    assert provider.closed


def test_a_spent_quota_is_429_and_says_when(client: FlaskClient) -> None:
    assert [ask(client).status_code for _ in range(4)] == [200, 200, 200, 429]
    refused = ask(client)
    assert 0 < int(refused.headers["Retry-After"]) <= 61
    assert refused.content_type == "application/problem+json"
    assert refused.json["code"] == "deadline_too_short"


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (e.ProviderUnavailable("x"), 502),
        (e.ProviderGarbage("x"), 502),
        (e.ProviderTimeout("x"), 504),
        (e.ProviderRejected("x", status=422), 422),
        (e.ContentBlocked("x"), 400),
    ],
)
def test_each_failure_of_the_provider_has_its_status_and_leaves_no_hold(
    client: FlaskClient, provider: ScriptedProvider, error: Exception, status: int
) -> None:
    provider.error = error
    assert ask(client).status_code == status
    assert ask(client, stream=True).status_code == status
    windows = client.get("/api/quota/stats").get_json()["targets"]["t"]["windows"]
    assert [it["reserved"] for it in windows] == [0, 0]


def test_a_429_of_the_provider_gives_the_quota_back_and_closes_the_target_for_its_hint(
    client: FlaskClient, provider: ScriptedProvider
) -> None:
    provider.error = e.ProviderRateLimited("x", retry_after=33.0, quota_id="rpm")
    refused = ask(client)
    assert refused.status_code == 429
    assert int(refused.headers["Retry-After"]) == 33
    windows = client.get("/api/quota/stats").get_json()["targets"]["t"]["windows"]
    assert [it["used"] for it in windows] == [0, 0]


def test_an_error_after_the_first_byte_is_an_event(client: FlaskClient, provider: ScriptedProvider) -> None:
    provider.error, provider.after = e.ProviderGarbage("cut"), 2
    response = ask(client, stream=True)
    assert response.status_code == 200
    assert events(response.text)[-1] == "error"
    assert '"code":"provider_garbage"' in response.text


@pytest.mark.parametrize(
    ("body", "status", "word"),
    [
        (b"not json", 400, "JSON"),
        (b'{"prompt": 5}', 400, "a text, not a whole number"),
        (b'{"prompt": ""}', 400, "empty"),
        (b"{}", 400, "either"),
        (b'{"prompt": "a", "messages": []}', 400, "either"),
        (b'{"prompt": "a", "unknown": 1}', 400, "unknown"),
        (b'{"prompt": "a", "temperature": NaN}', 400, "JSON"),
        (b'{"prompt": "a", "temperature": 9}', 400, "at most 2"),
        (b'{"prompt": "a", "max_output_tokens": 0}', 400, "at least 1"),
        (b'{"prompt": "a", "max_output_tokens": -1}', 400, "at least 1"),
        (b'{"prompt": "a", "max_output_tokens": 1000000000}', 400, "at most 65536"),
        (b'{"prompt": "a", "model": "mm"}', 404, "'m'"),
        (b'{"prompt": "\xff"}', 400, "UTF-8"),
        (b'{"prompt": "' + b"a" * 10_000_000 + b'"}', 413, "larger"),
        (
            b'{"messages": ['
            + b'{"role":"user","content":"a"},' * 10_000
            + b'{"role":"user","content":"a"}]}',
            400,
            "",
        ),
        (b"[" * 100_000, 400, ""),
        (b'{"prompt": "a", "priority": "urgent"}', 400, "critical, high, medium, low"),
        (b'{"prompt": "a", "timeout_s": -1}', 400, "timeout_s"),
        (b'{"prompt": "a", "timeout_s": 0}', 400, "timeout_s"),
        (b'{"prompt": "' + b"word " * 5_000 + b'"}', 400, "never fit"),
    ],
)
def test_bad_input_is_told_what_is_wrong(client: FlaskClient, body: bytes, status: int, word: str) -> None:
    response = client.post("/api/v1/generate", data=body)
    assert response.status_code == status
    assert word in response.get_json()["detail"]


def test_a_priority_is_capped_to_what_the_caller_may_claim(open_client: FlaskClient) -> None:
    response = open_client.post("/api/v1/generate", json={"prompt": "a"}, headers={"Priority": "u=0"})
    assert response.headers["X-Priority"] == "high"
    response = open_client.post("/api/v1/generate", json={"prompt": "a"}, headers={"X-Priority": "low"})
    assert response.headers["X-Priority"] == "low"
    assert (
        open_client.post("/api/v1/generate", json={"prompt": "a"}, headers={"Priority": "u=9"}).status_code
        == 400
    )


def test_a_safe_request_id_is_kept_and_a_hostile_one_replaced(client: FlaskClient) -> None:
    kept = client.post("/api/v1/generate", json={"prompt": "a"}, headers={"X-Request-ID": "abc-1"})
    assert kept.headers["X-Request-ID"] == kept.get_json()["id"] == "abc-1"
    replaced = client.post("/api/v1/generate", json={"prompt": "a"}, headers={"X-Request-ID": "a b<script>"})
    assert "script" not in replaced.headers["X-Request-ID"]


def test_health_readiness_and_metrics_answer(client: FlaskClient) -> None:
    ask(client)
    assert client.get("/api/health").json == {"status": "ok"}
    assert client.get("/api/ready").get_json()["status"] == "ready"
    text = client.get("/metrics").text
    assert 'knowalledge_requests_total{model="m",outcome="ok",priority="medium"} 1.0' in text
    assert 'knowalledge_quota_used{target="t",window="rpm"} 1.0' in text


def test_a_tenant_is_who_a_trusted_front_says_and_nobody_else_may_say(
    provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    asked: list[str] = []
    monkeypatch.setattr(
        "knowalledge.quota.memory.MemoryQuotaStore.reserve",
        lambda self, target, wanted: (
            asked.append(wanted.tenant),
            Granted(Reservation(target, "i", wanted.cost)),
        )[1],
    )
    monkeypatch.setattr(registry, "build", lambda *_: provider)
    for configured in ("auth: {tenant_header: X-Tenant}\n", ""):
        config = tmp_path / "t.yaml"
        config.write_text(configured + "models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}")
        client = wiring.create_app(Settings.load(environ={}, config=str(config))).test_client()
        client.post("/api/v1/generate", json={"prompt": "hi"}, headers={"X-Tenant": "acme"})
        if configured:
            hostile = client.post("/api/v1/generate", json={"prompt": "hi"}, headers={"X-Tenant": "a b"})
            assert hostile.status_code == 400
    assert asked == ["acme", "anonymous"]
