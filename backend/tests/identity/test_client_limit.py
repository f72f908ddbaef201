"""The request rate of one client."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge.config.settings import Settings
from knowalledge.providers import registry
from tests.support.redis_servers import server, serving
from tests.support.web_app import ScriptedProvider

Start = Callable[..., FlaskClient]


@pytest.fixture
def start(provider: ScriptedProvider, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Start:
    """Starts a gateway with the given settings; each call starts another."""
    monkeypatch.setattr(registry, "build", lambda *_: provider)
    # The sliding window is made of two fixed minutes: at 10 s into a minute none of the tests crosses a boundary.
    monkeypatch.setattr("time.time", lambda: 1_790_000_010.0)

    def start(settings: str, **overrides: object) -> FlaskClient:
        config = tmp_path / "c.yaml"
        config.write_text(settings + "models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}")
        return wiring.create_app(Settings.load(overrides, environ={}, config=str(config))).test_client()

    return start


def send(client: FlaskClient, address: str = "10.0.0.1", **headers: str) -> int:
    response = client.post(
        "/api/v1/generate",
        json={"prompt": "hi"},
        headers={name.replace("_", "-"): value for name, value in headers.items()},
        environ_overrides={"REMOTE_ADDR": address},
    )
    return response.status_code


def test_without_a_rate_no_client_is_limited(start: Start) -> None:
    client = start("")
    assert {send(client) for _ in range(30)} == {200}


def test_a_client_above_its_rate_gets_429_with_retry_after_and_others_are_served(
    start: Start, provider: ScriptedProvider
) -> None:
    client = start("clients: {rate: 3/minute}\n")
    assert [send(client) for _ in range(4)] == [200, 200, 200, 429]
    assert send(client, "10.0.0.2") == 200
    assert len(provider.prompts) == 4
    response = client.post(
        "/api/v1/generate", json={"prompt": "hi"}, environ_overrides={"REMOTE_ADDR": "10.0.0.1"}
    )
    assert response.content_type == "application/problem+json"
    assert response.get_json()["code"] == "client_limited"
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert "10.0.0.1" not in response.text


def test_all_dialects_and_topics_share_one_count_and_each_has_its_own_error_format(start: Start) -> None:
    client = start("clients: {rate: 1/minute}\n")
    assert send(client, "127.0.0.1") == 200
    openai = client.post("/v1/chat/completions", json={})
    gemini = client.post("/v1beta/models/m:generateContent", json={})
    topic = client.get("/api/v1/topics/light")
    assert [it.status_code for it in (openai, gemini, topic)] == [429, 429, 429]
    assert openai.get_json()["error"]["type"] == "rate_limit_error"
    assert gemini.get_json()["error"]["status"] == "RESOURCE_EXHAUSTED"


def test_probes_metrics_and_statistics_are_never_limited(start: Start) -> None:
    client = start("clients: {rate: 1/hour}\n")
    for path in ("/api/health", "/api/ready", "/metrics", "/api/quota/stats") * 3:
        assert client.get(path).status_code == 200


def test_a_tenant_is_one_client_at_every_address(start: Start) -> None:
    client = start("clients: {rate: 2/minute}\nauth: {tenant_header: X-Tenant}\n")
    statuses = [send(client, f"10.0.0.{number}", X_Tenant="acme") for number in range(3)]
    assert statuses == [200, 200, 429]
    assert send(client, "10.0.0.0", X_Tenant="other") == 200


def test_a_new_tenant_name_for_each_request_evades_nothing_where_proxies_tell_addresses_apart(
    start: Start,
) -> None:
    client = start("clients: {rate: 2/minute, proxies: 1}\nauth: {tenant_header: X-Tenant}\n")
    statuses = [send(client, X_Tenant=f"t{number}", X_Forwarded_For="192.0.2.7") for number in range(3)]
    assert statuses == [200, 200, 429]
    assert send(client, X_Tenant="t9", X_Forwarded_For="192.0.2.8") == 200


def test_the_name_of_callers_without_a_tenant_cannot_be_taken(start: Start) -> None:
    client = start("auth: {tenant_header: X-Tenant}\n")
    assert send(client, X_Tenant="anonymous") == 400


def test_an_invalid_tenant_is_400_and_does_not_disturb_the_counts(start: Start) -> None:
    client = start("clients: {rate: 2/minute}\nauth: {tenant_header: X-Tenant}\n")
    assert send(client, X_Tenant="a b" * 1000) == 400
    assert [send(client, X_Tenant="acme") for _ in range(3)] == [200, 200, 429]


@pytest.mark.parametrize(
    ("proxies", "third"),
    [(0, 429), (1, 200)],
    ids=["without a trusted proxy they are ignored", "a trusted proxy names the client"],
)
def test_forwarded_addresses(start: Start, proxies: int, third: int) -> None:
    client = start(f"clients: {{rate: 2/minute, proxies: {proxies}}}\n")
    for number in range(2):
        assert send(client, X_Forwarded_For=f"9.9.9.9, 192.0.2.{number}") == 200
    assert send(client, X_Forwarded_For="9.9.9.9, 192.0.2.7") == third


def test_replicas_count_together_in_redis(start: Start, redis_url: str) -> None:
    first, second = (start("clients: {rate: 2/minute}\n", redis_url=redis_url) for _ in range(2))
    assert [send(first), send(second), send(first), send(second)] == [200, 200, 429, 429]


def test_without_redis_the_replica_counts_alone(start: Start) -> None:
    client = start("clients: {rate: 2/minute}\n", redis_url="redis://127.0.0.1:1/0")
    assert [send(client) for _ in range(3)] == [200, 200, 429]


FAULTS: dict[str, tuple[object, ...]] = {
    "frozen": ("CLIENT", "PAUSE", "3000", "ALL"),
    "demoted": ("REPLICAOF", "127.0.0.1", "1"),
    "full": ("CONFIG", "SET", "maxmemory", "1"),
    "locked": ("CONFIG", "SET", "requirepass", "new"),
    "narrowed": ("ACL", "SETUSER", "default", "-@scripting"),
}


@pytest.mark.parametrize("fault", [*FAULTS, "gone"])
def test_requests_under_way_when_redis_goes_are_served_by_each_kind_of_fault(
    start: Start, fault: str
) -> None:
    with serving(server("redis 8.2")) as redis:
        port = redis.connection_pool.connection_kwargs["port"]
        client = start(
            "clients: {rate: 1000/minute}\nredis: {timeout: 300ms}\n", redis_url=f"redis://127.0.0.1:{port}/0"
        )
        assert send(client) == 200
        administrator: Any = redis
        if fault == "gone":
            redis.shutdown(nosave=True)
        else:
            administrator.execute_command(*FAULTS[fault])
            administrator.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
        with ThreadPoolExecutor(16) as pool:
            statuses = list(pool.map(lambda _: send(client.application.test_client()), range(64)))
        assert set(statuses) == {200}
