"""How often one client may ask."""

from collections.abc import Callable
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.providers import registry
from tests.support.web_app import Scripted

Start = Callable[..., FlaskClient]


@pytest.fixture
def start(provider: Scripted, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """A gateway of its own for each call, with these settings."""
    monkeypatch.setattr(registry, "build", lambda *_: provider)
    # A count in process begins anew with each minute of the clock, and the one before counts in part.
    monkeypatch.setattr("time.time", lambda: 1_790_000_010.0)

    def begin(settings: str, **overrides: object) -> FlaskClient:
        config = tmp_path / "c.yaml"
        config.write_text(settings + "models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}")
        return wiring.create_app(Settings.load(overrides, environ={}, config=str(config))).test_client()

    return begin


def ask(client: FlaskClient, address: str = "10.0.0.1", **headers: str) -> int:
    answer = client.post(
        "/api/v1/generate",
        json={"prompt": "hi"},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        environ_overrides={"REMOTE_ADDR": address},
    )
    return answer.status_code


def test_without_a_rate_nobody_is_counted(start: Start) -> None:
    client = start("")
    assert {ask(client) for _ in range(30)} == {200}


def test_a_client_above_its_rate_is_told_when_to_come_back_and_others_are_served(
    start: Start, provider: Scripted
) -> None:
    client = start("clients: {rate: 3/minute}\n")
    assert [ask(client) for _ in range(4)] == [200, 200, 200, 429]
    assert ask(client, "10.0.0.2") == 200
    assert len(provider.asked) == 4
    refusal = client.post(
        "/api/v1/generate", json={"prompt": "hi"}, environ_overrides={"REMOTE_ADDR": "10.0.0.1"}
    )
    assert refusal.content_type == "application/problem+json"
    assert refusal.json["code"] == "client_limited"
    assert 1 <= int(refusal.headers["Retry-After"]) <= 60
    assert "10.0.0.1" not in refusal.text


def test_all_dialects_and_topics_share_one_count_and_each_refuses_in_its_own_form(start: Start) -> None:
    client = start("clients: {rate: 1/minute}\n")
    assert ask(client, "127.0.0.1") == 200
    openai = client.post("/v1/chat/completions", json={})
    gemini = client.post("/v1beta/models/m:generateContent", json={})
    topic = client.get("/api/v1/topics/light")
    assert [it.status_code for it in (openai, gemini, topic)] == [429, 429, 429]
    assert openai.json["error"]["type"] == "rate_limit_error"
    assert gemini.json["error"]["status"] == "RESOURCE_EXHAUSTED"


def test_probes_metrics_and_statistics_are_never_refused(start: Start) -> None:
    client = start("clients: {rate: 1/hour}\n")
    for path in ("/api/health", "/api/ready", "/metrics", "/api/quota/stats") * 3:
        assert client.get(path).status_code == 200


def test_a_tenant_is_one_client_wherever_it_asks_from(start: Start) -> None:
    client = start("clients: {rate: 2/minute}\nauth: {tenant_header: X-Tenant}\n")
    found = [ask(client, f"10.0.0.{number}", X_Tenant="acme") for number in range(3)]
    assert found == [200, 200, 429]
    assert ask(client, "10.0.0.0", X_Tenant="other") == 200


def test_a_name_that_is_no_tenants_is_refused_as_such_and_breaks_no_count(start: Start) -> None:
    client = start("clients: {rate: 2/minute}\nauth: {tenant_header: X-Tenant}\n")
    assert ask(client, X_Tenant="a b" * 1000) == 400
    assert [ask(client, X_Tenant="acme") for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("proxies", "third"),
    [(0, 429), (1, 200)],
    ids=["what nobody trusted says is not believed", "a trusted proxy says who asks"],
)
def test_forwarded_addresses(start: Start, proxies: int, third: int) -> None:
    client = start(f"clients: {{rate: 2/minute, proxies: {proxies}}}\n")
    for number in range(2):
        assert ask(client, X_Forwarded_For=f"9.9.9.9, 192.0.2.{number}") == 200
    assert ask(client, X_Forwarded_For="9.9.9.9, 192.0.2.7") == third


def test_replicas_count_together_in_redis(start: Start, redis_url: str) -> None:
    one, other = (start("clients: {rate: 2/minute}\n", redis_url=redis_url) for _ in range(2))
    assert [ask(one), ask(other), ask(one), ask(other)] == [200, 200, 429, 429]


def test_a_redis_that_is_gone_refuses_nobody_and_the_replica_counts_for_itself(start: Start) -> None:
    client = start("clients: {rate: 2/minute}\n", redis_url="redis://127.0.0.1:1/0")
    assert [ask(client) for _ in range(3)] == [200, 200, 429]
