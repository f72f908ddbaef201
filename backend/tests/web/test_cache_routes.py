"""Operators' routes: statistics, and taking answers back."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from knowalledge import app as wiring
from knowalledge import caches
from knowalledge.domain.errors import Unavailable
from knowalledge.settings import Settings
from tests.knowing import Knowing

CONFIG = (
    "models: {m: {price: {input: 1.0, output: 10.0}, targets: [{name: t, provider: gemini, api_key: k}]}}\n"
)


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
    provider = Knowing()
    monkeypatch.setattr(wiring.providers, "build", lambda spec, clock: provider)
    monkeypatch.setattr(caches, "purger", lambda settings: outside)
    monkeypatch.setattr(caches, "audit", lambda event, fields: log.append((event, fields)))
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
    found = client.get("/api/cache/stats").json
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
