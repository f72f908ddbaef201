"""Operators' routes: statistics, and taking answers back."""

from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge import infrastructure
from knowalledge.caching import feature as caching
from knowalledge.caching import read_through
from knowalledge.config.settings import Settings
from knowalledge.core.errors import ProviderUnavailable, Unavailable
from knowalledge.core.feature import Task
from knowalledge.providers import registry
from knowalledge.topics import feature as topics
from tests.support.doubles import ManualClock
from tests.support.fake_provider import FakeProvider

CONFIG = (
    "models: {m: {price: {input: 1.0, output: 10.0}, targets: [{name: t, provider: gemini, api_key: k}]}}\n"
)
UNPRICED = "models: {m: {targets: [{name: t, provider: gemini, api_key: k}]}}\n"
LIGHT = "/api/v1/topics/light"


class Outside:
    """A CDN."""

    def __init__(self) -> None:
        self.purged: list[tuple[str, ...]] = []
        self.away = False

    def purge(self, tags: tuple[str, ...]) -> None:
        if self.away:
            raise Unavailable("away")
        self.purged.append(tags)


@pytest.fixture
def outside() -> Outside:
    return Outside()


@pytest.fixture
def log() -> list[Any]:
    return []


@pytest.fixture
def client(
    outside: Outside,
    log: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    store: str,
) -> FlaskClient:
    config = tmp_path / "c.yaml"
    config.write_text(CONFIG + store)
    provider = FakeProvider()
    monkeypatch.setattr(registry, "build", lambda spec, clock: provider)
    monkeypatch.setattr(caching, "make_purger", lambda settings: outside)
    monkeypatch.setattr(wiring, "audit", lambda event, fields: log.append((event, fields)))
    return wiring.create_app(Settings.load(environ={}, config=str(config))).test_client()


def take(client: FlaskClient, **body: Any) -> Any:
    return client.post("/api/cache/invalidate", json=body).json


def test_a_pattern_a_tag_or_a_key_takes_answers_back_and_says_how_many(
    client: FlaskClient, outside: Outside
) -> None:
    for path in ("light", "light/quiz", "dark"):
        client.get(f"/api/v1/topics/{path}")
    key = client.get("/api/v1/topics/dark").headers["Cache-Tag"].split(",")[-1]
    assert take(client, key=key) == {"removed": 1, "cdn": "purged"}
    assert take(client, tag="topic:light")["removed"] == 2
    assert take(client, pattern="topic:*")["removed"] == 0
    assert "miss" in client.get("/api/v1/topics/light").headers["Cache-Status"]
    assert take(client, pattern="topic:lig*")["removed"] == 1
    assert outside.purged == [(key,), ("topic:light",), ("topic",), ("topic",)]


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"pattern": "topic:*", "tag": "topic"},
        {"pattern": ""},
        {"tag": "topic:*"},
        {"pattern": 3},
        {"other": "x"},
        {"pattern": "a\nb"},
    ],
)
def test_an_odd_order_is_refused_and_takes_nothing_back(client: FlaskClient, body: Any) -> None:
    client.get("/api/v1/topics/light")
    assert client.post("/api/cache/invalidate", json=body).status_code == 400
    assert "hit" in client.get("/api/v1/topics/light").headers["Cache-Status"]


def test_a_cdn_that_is_away_is_told_of_and_ours_are_taken_back_all_the_same(
    client: FlaskClient, outside: Outside
) -> None:
    client.get("/api/v1/topics/light")
    outside.away = True
    assert take(client, pattern="*") == {"removed": 1, "cdn": "failed"}


def test_an_invalidation_is_written_to_the_audit_log(client: FlaskClient, log: list[Any]) -> None:
    client.post("/api/cache/invalidate", json={"pattern": "topic:x"}, headers={"X-Request-ID": "abc"})
    assert log == [
        (
            "cache_invalidated",
            {"pattern": "topic:x", "removed": 0, "cdn": "purged", "by": "anonymous", "request_id": "abc"},
        )
    ]


def test_statistics_tell_each_layer_and_what_was_saved(client: FlaskClient) -> None:
    first = client.get("/api/v1/topics/light")
    client.get("/api/v1/topics/light")
    client.get("/api/v1/topics/light", headers={"If-None-Match": first.headers["ETag"]})
    found = client.get("/api/cache/stats").get_json()
    assert (found["hits"], found["misses"], found["hit_rate"]) == (2, 1, 0.6667)
    assert found["layers"]["memory"]["entries"] == 1
    assert found["layers"]["memory"]["bytes"] > 1000
    assert found["layers"]["browser"]["hits"] == 1
    if "redis" in found["layers"]:
        assert found["layers"]["redis"]["entries"] == 1
        assert found["layers"]["redis"]["bytes"] > 100
    assert found["saved"] == {"input_tokens": 14, "output_tokens": 180, "usd": 0.001814}
    metrics = client.get("/metrics").text
    assert 'knowalledge_cache_lookups_total{layer="memory",result="hit"} 2.0' in metrics
    assert 'knowalledge_cache_entries{layer="memory"} 1.0' in metrics
    shared = [line for line in metrics.splitlines() if line.startswith("knowalledge_cache_shared_entries ")]
    assert shared[-1].endswith(" 1.0" if "redis" in found["layers"] else " 0.0")


class Replicas:
    """Gateways before one provider, by a clock that stands still, with one Redis or none between them."""

    def __init__(self, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, path: Any, store: str) -> None:
        self.provider = FakeProvider()
        monkeypatch.setattr(registry, "build", lambda spec, clock: self.provider)
        monkeypatch.setattr(infrastructure, "SystemClock", lambda: clock)
        self._path, self._store = path, store

    def start(self, models: str = CONFIG) -> FlaskClient:
        config = self._path / "c.yaml"
        config.write_text(models + self._store + "cache: {keep_warm: false}\n")
        return wiring.create_app(Settings.load(environ={}, config=str(config))).test_client()


@pytest.fixture
def replicas(clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, store: str) -> Replicas:
    return Replicas(clock, monkeypatch, tmp_path, store)


def saved(client: FlaskClient) -> Any:
    """What each layer saved that saved anything; ``all`` is what the caches saved together."""
    found = client.get("/api/cache/stats").get_json()
    layers = {name: layer["saved"] for name, layer in found["layers"].items() if layer["saved"]}
    return {"all": found["saved"]} | {name: it for name, it in layers.items() if it["output_tokens"]}


def calls(number: int) -> Any:
    """What so many calls of the provider cost, by the prices above."""
    return {
        "input_tokens": 7 * number,
        "output_tokens": 90 * number,
        "usd": pytest.approx(907e-6 * number, abs=1e-9),
    }


def series(client: FlaskClient) -> set[str]:
    """The series of saved tokens."""
    name = "knowalledge_cache_saved_tokens_total{"
    return {it.removeprefix(name) for it in client.get("/metrics").text.splitlines() if it.startswith(name)}


def test_what_memory_and_redis_saved_is_told_of_each(replicas: Replicas, store: str) -> None:
    one, other = replicas.start(), replicas.start()
    for _ in range(4):
        one.get(LIGHT)
    assert saved(one) == {"all": calls(3), "memory": calls(3)}
    other.get(LIGHT)
    other.get(LIGHT)
    if store:
        assert saved(other) == {"all": calls(2), "memory": calls(1), "redis": calls(1)}
        assert series(other) == {
            'kind="input",layer="memory",model="m"} 7.0',
            'kind="output",layer="memory",model="m"} 90.0',
            'kind="input",layer="redis",model="m"} 7.0',
            'kind="output",layer="redis",model="m"} 90.0',
        }
    else:
        assert saved(other) == {"all": calls(1), "memory": calls(1)}


@pytest.mark.parametrize(
    ("path", "body"), [(LIGHT, None), ("/api/v1/generate", {"prompt": "hi", "temperature": 0})]
)
def test_what_followers_of_a_flight_did_not_spend_is_told_of_the_flight(
    replicas: Replicas, path: str, body: Any
) -> None:
    replicas.provider.latency_s = 0.05
    client = replicas.start()

    def ask() -> None:
        assert (client.post(path, json=body) if body else client.get(path)).status_code == 200

    gevent.joinall([gevent.spawn(ask) for _ in range(4)], raise_error=True)
    assert replicas.provider.calls == 1
    assert saved(client) == {"all": calls(3), "flight": calls(3)}
    assert 'kind="output",layer="flight",model="m"} 270.0' in series(client)


def test_what_a_stale_answer_did_not_spend_is_told_of_the_flight_that_failed(
    replicas: Replicas, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(read_through, "STALE_PATIENCE_S", 0.1)  # the room waits by a clock of its own
    client = replicas.start()
    client.get(LIGHT)
    clock.sleep(3601)
    replicas.provider.error = ProviderUnavailable("x")
    assert client.get(LIGHT).headers["X-Degraded"] == "true"
    assert saved(client) == {"all": calls(1), "flight": calls(1)}


def test_the_tokens_of_a_304_are_told_once_of_the_layer_that_vouched_for_it(replicas: Replicas) -> None:
    client = replicas.start()
    etag = client.get(LIGHT).headers["ETag"]
    for _ in range(2):
        assert client.get(LIGHT, headers={"If-None-Match": etag}).status_code == 304
    layers = client.get("/api/cache/stats").get_json()["layers"]
    assert (layers["browser"]["hits"], layers["browser"]["saved"]) == (2, None)
    assert saved(client) == {"all": calls(2), "memory": calls(2)}


def test_without_prices_the_layers_tell_of_tokens_and_of_no_money(replicas: Replicas) -> None:
    client = replicas.start(UNPRICED)
    client.get(LIGHT)
    client.get(LIGHT)
    nothing = {"input_tokens": 7, "output_tokens": 90, "usd": None}
    assert saved(client) == {"all": nothing, "memory": nothing}


def test_where_answers_live_shortly_popular_ones_are_looked_at_more_often(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setattr(registry, "build", lambda spec, clock: FakeProvider())
    seen: list[Task] = []
    monkeypatch.setattr(topics, "Task", lambda *args: seen.append(Task(*args)) or seen[-1])
    for life in ("1h", "10s"):
        config = tmp_path / "life.yaml"
        config.write_text(CONFIG + f"cache: {{memory_ttl: {life}}}\n")
        wiring.create_app(Settings.load(environ={}, config=str(config)))
    assert [it.interval_s for it in seen] == [5.0, 1.0]


@pytest.mark.parametrize(
    "headers",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/json", "Origin": "https://other.example"},
        {"Content-Type": "application/json", "Origin": "null"},
        {"Origin": "https://other.example"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "cross-site"},
        {"Content-Type": "application/json", "Sec-Fetch-Site": "same-site"},
    ],
)
def test_a_page_of_another_origin_takes_nothing_back(client: FlaskClient, headers: dict[str, str]) -> None:
    client.get(LIGHT)
    assert client.post("/api/cache/invalidate", data=b'{"pattern": "*"}', headers=headers).status_code == 403
    assert "hit" in client.get(LIGHT).headers["Cache-Status"]


@pytest.mark.parametrize("headers", [{}, {"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}])
def test_a_program_and_a_page_of_ones_own_may(client: FlaskClient, headers: dict[str, str]) -> None:
    client.get(LIGHT)
    assert client.post("/api/cache/invalidate", data=b'{"pattern": "*"}', headers=headers).status_code == 200
