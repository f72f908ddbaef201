"""What the caches keep of topics and of every dialect's answers, for whom, for how long, and how it is told."""

from typing import Any

import gevent
import pytest
from flask.testing import FlaskClient
from redis import Redis

from knowalledge.caching import read_through
from knowalledge.core import errors as e
from tests.support.doubles import ManualClock
from tests.support.fake_provider import FakeProvider
from tests.topics.conftest import build


def test_a_topic_goes_miss_memory_hit_304(client: FlaskClient, provider: FakeProvider) -> None:
    first = client.get("/api/v1/topics/light")
    second = client.get("/api/v1/topics/light")
    assert "fwd=miss" in first.headers["Cache-Status"]
    assert second.headers["Cache-Status"].startswith("knowalledge-memory; hit; ttl=")
    assert first.data == second.data
    etag = second.headers["ETag"]
    assert etag.startswith('"')
    third = client.get("/api/v1/topics/light", headers={"If-None-Match": f'"x", W/{etag}'})
    assert (third.status_code, third.data, third.headers["ETag"]) == (304, b"", etag)
    assert "max-age=300" in third.headers["Cache-Control"]
    assert provider.calls == 1


def test_outer_caches_are_told_how_long_and_under_which_tags(client: FlaskClient) -> None:
    headers = client.get("/api/v1/topics/Black%20Holes").headers
    assert headers["Cache-Control"] == ("public, max-age=300, stale-while-revalidate=60, stale-if-error=3600")
    assert headers["CDN-Cache-Control"].startswith("public, max-age=1800")
    tags = headers["Cache-Tag"].split(",")
    assert tags[:3] == ["all", "topic", "topic:black%20holes"]
    assert headers["Surrogate-Key"].split(" ") == tags
    assert headers["Vary"] == "Accept-Encoding"


def test_where_callers_must_say_who_they_are_answers_are_private(
    provider: FakeProvider, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    app = build(provider, clock, monkeypatch, tmp_path, "auth: {mode: required}\n")
    headers = app.test_client().get("/api/v1/topics/light").headers
    if "ETag" in headers:
        assert headers["Cache-Control"].startswith("private")
        assert "Authorization" in headers["Vary"]
    assert "CDN-Cache-Control" not in headers
    assert "Cache-Tag" not in headers


def test_many_topics_of_one_client_stay_within_the_memory_given(
    provider: FakeProvider, clock: ManualClock, monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    app = build(provider, clock, monkeypatch, tmp_path, "cache: {memory_bytes: 64KiB}\n")
    client = app.test_client()
    for index in range(200):
        assert client.get(f"/api/v1/topics/t{index}/related").status_code == 200
    provider.prompts.clear()
    client.get("/api/v1/topics/t0/related")
    assert provider.calls == 1  # it had to go


# -- when the model cannot be asked ------------------------------------------------------------------


FAILURES = [
    e.ProviderUnavailable("x"),
    e.ProviderTimeout("x"),
    e.ProviderRateLimited("x", retry_after=30),
    e.ProviderGarbage("x"),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_a_stale_answer_serves_as_a_fallback_for_an_hour_and_says_so(
    client: FlaskClient,
    provider: FakeProvider,
    clock: ManualClock,
    failure: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(read_through, "STALE_PATIENCE_S", 0.1)  # the room waits by a clock of its own
    fresh = client.get("/api/v1/topics/light/related")
    clock.sleep(3601)
    provider.error = failure
    stale = client.get("/api/v1/topics/light/related")
    assert stale.status_code == 200
    assert stale.get_json() == {**fresh.get_json(), "degraded": True}
    assert stale.headers["Age"] == "3601"
    assert stale.headers["X-Degraded"] == "true"
    assert "detail=stale" in stale.headers["Cache-Status"]
    assert "max-age=0" in stale.headers["Cache-Control"]
    assert stale.headers["ETag"] != fresh.headers["ETag"]
    clock.sleep(3600)
    assert client.get("/api/v1/topics/light/related").status_code in (429, 502, 503, 504)


def test_after_the_fallback_a_provider_that_is_back_is_asked(
    client: FlaskClient, provider: FakeProvider, clock: ManualClock
) -> None:
    client.get("/api/v1/topics/light/related")
    clock.sleep(3601)
    provider.error = e.ProviderUnavailable("x")
    client.get("/api/v1/topics/light/related")
    provider.error = None
    clock.sleep(30)
    again = client.get("/api/v1/topics/light/related")
    assert again.get_json()["degraded"] is False
    assert "fwd=miss" in again.headers["Cache-Status"]


# -- what replicas share -----------------------------------------------------------------------------


def test_a_corrupt_entry_in_redis_is_a_miss(
    provider: FakeProvider,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    redis_client: Redis,
    redis_url: str,
) -> None:
    extra = f"redis_url: {redis_url}\n"
    build(provider, clock, monkeypatch, tmp_path, extra).test_client().get("/api/v1/topics/light/related")
    names = redis_client.keys("kn:{cache}:e:*")
    assert len(names) == 1
    redis_client.set(names[0], b"kn0 of an older version")
    other = build(provider, clock, monkeypatch, tmp_path, extra).test_client()
    assert other.get("/api/v1/topics/light/related").status_code == 200
    assert provider.calls == 2


def test_a_second_replica_answers_from_redis_and_then_from_memory(
    provider: FakeProvider,
    clock: ManualClock,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Any,
    redis_client: Redis,
    redis_url: str,
) -> None:
    extra = f"redis_url: {redis_url}\n"
    replicas = [build(provider, clock, monkeypatch, tmp_path, extra).test_client() for _ in range(2)]
    replicas[0].get("/api/v1/topics/light")
    status = [replicas[1].get("/api/v1/topics/light").headers["Cache-Status"] for _ in range(2)]
    assert status[0].startswith("knowalledge-redis; hit;")
    assert status[1].startswith("knowalledge-memory; hit;")
    assert provider.calls == 1


# -- questions of every dialect ----------------------------------------------------------------------


def test_every_dialect_asks_the_caches_before_a_model(client: FlaskClient, provider: FakeProvider) -> None:
    asked = [
        ("/api/v1/generate", {"prompt": "hi", "temperature": 0}),
        (
            "/v1/chat/completions",
            {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0},
        ),
        (
            "/v1beta/models/m:generateContent",
            {
                "contents": [{"role": "user", "parts": [{"text": "hi"}]}],
                "generationConfig": {"temperature": 0},
            },
        ),
    ]
    status = [client.post(path, json=body).headers["Cache-Status"] for path, body in asked * 2]
    # In the target's own dialect bodies pass through, so their answers are kept as the provider said them: once more.
    first, later = ["knowalledge", "knowalledge-memory", "knowalledge"], ["knowalledge-memory"] * 3
    assert [it.split(";")[0] for it in status] == first + later
    assert provider.calls == 2


def test_a_streamed_answer_is_replayed_in_each_dialect(client: FlaskClient, provider: FakeProvider) -> None:
    chat = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0, "stream": True}
    first = client.post("/api/v1/generate", json={"prompt": "hi", "temperature": 0, "stream": True}).text
    again = client.post("/v1/chat/completions", json=chat).text
    assert "event: done" in first
    assert "answer 1" in again
    assert again.rstrip().endswith("[DONE]")
    assert provider.calls == 1


def test_a_stream_says_in_its_headers_what_the_caches_did(
    client: FlaskClient, provider: FakeProvider, clock: ManualClock
) -> None:
    body = {"prompt": "hi", "temperature": 0, "stream": True}

    def told(**headers: str) -> list[str | None]:
        response = client.post("/api/v1/generate", json=body, headers=headers)
        response.get_data()
        gevent.sleep(0.01)  # by now its flight has landed
        return [response.headers.get(name) for name in ("Cache-Status", "Age", "X-Degraded")]

    assert told() == ["knowalledge; fwd=miss", None, None]
    clock.sleep(5)
    assert told() == ["knowalledge-memory; hit", "5", None]
    assert told(**{"Cache-Control": "no-store"}) == ["knowalledge; fwd=bypass", None, None]
    clock.sleep(3601)
    provider.error = e.ProviderUnavailable("x")
    status, age, degraded = told()
    assert str(status).endswith("; hit; detail=stale")
    assert (age, degraded) == ("3606", "true")


def test_a_stored_answer_is_not_older_than_the_caller_wants_it(
    client: FlaskClient, provider: FakeProvider, clock: ManualClock
) -> None:
    def told(field: str) -> str:
        response = client.post(
            "/api/v1/generate", json={"prompt": "hi", "temperature": 0}, headers={"Cache-Control": field}
        )
        gevent.sleep(0.01)  # by now its flight has landed
        return str(response.headers.get("Cache-Status", response.status))

    assert "miss" in told("max-age=60")
    clock.sleep(50)
    assert "hit" in told("max-age=60")
    clock.sleep(20)
    assert told("max-age=60, only-if-cached").startswith("503")
    assert "hit" in told("max-age=600")
    assert "miss" in told("max-age=60")
    assert "hit" in told("max-age=60")
    assert provider.calls == 2


@pytest.mark.parametrize(
    ("field", "calls"),
    [("no-cache", 2), ("no-store", 2), ("max-age=60", 1), ("max-age=0", 2), ("max-age=x", 1), ("", 2)],
)
def test_cache_control_of_the_request_says_whether_a_stored_answer_will_do(
    client: FlaskClient, provider: FakeProvider, field: str, calls: int
) -> None:
    for _ in range(2):
        client.post("/api/v1/generate", json={"prompt": "hi"}, headers={"Cache-Control": field})
    assert provider.calls == calls
    only = client.post(
        "/api/v1/generate", json={"prompt": "other"}, headers={"Cache-Control": "only-if-cached"}
    )
    assert (only.status_code, only.get_json()["code"]) == (503, "cache_miss")


# -- the short way -----------------------------------------------------------------------------------


def test_the_short_way_and_the_long_way_answer_alike(alone: FlaskClient) -> None:
    path = "/api/v1/topics/light/related"
    alone.get(path)
    short = alone.get(path)
    long = alone.get(path, headers={"Origin": "https://page.example"})
    for one in (short, long):
        one.headers.pop("X-Request-ID")
    assert sorted(short.headers.items()) == sorted(
        it for it in long.headers.items() if not it[0].startswith("Access-Control")
    )
    assert (short.data, short.status) == (long.data, long.status)
    counted = (
        'knowalledge_http_responses_total{route="/api/v1/topics/<topic:topic>/related",status="200"} 3.0'
    )
    assert counted in alone.get("/metrics").text


def test_the_short_way_repeats_a_safe_request_id_and_no_other(alone: FlaskClient) -> None:
    path = "/api/v1/topics/light/related"
    alone.get(path)
    assert alone.get(path, headers={"X-Request-ID": "mine"}).headers["X-Request-ID"] == "mine"
    assert alone.get(path, headers={"X-Request-ID": "a b"}).headers["X-Request-ID"] != "a b"


def test_an_answer_that_was_taken_back_is_not_given_by_the_short_way(
    alone: FlaskClient, provider: FakeProvider
) -> None:
    path = "/api/v1/topics/light/related"
    alone.get(path)
    alone.get(path)
    alone.post("/api/cache/invalidate", json={"tag": "topic:light"})
    assert "fwd=miss" in alone.get(path).headers["Cache-Status"]
    assert provider.calls == 2
