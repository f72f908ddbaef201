"""Caches and flights over real replicas, with replicas and Redis killed as machines die."""

import json
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import pytest

from bench.processes import Child, Stage

pytestmark = pytest.mark.system


class Fleet:
    """Three replicas, one Redis, and a provider that counts."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.redis = stage.redis()
        self.simulator = stage.simulator()
        self.config = (
            f"redis_url: redis://127.0.0.1:{self.redis.port}/0\nredis: {{timeout: 500ms}}\n"
            "cache: {keep_warm: false}\n"
            "models: {m: {targets: [{name: t, provider: gemini, api_key: k, "
            f"base_url: 'http://127.0.0.1:{self.simulator.port}'}}]}}}}\n"
        )
        self.replicas = [stage.gateway(self.config) for _ in range(3)]

    def provider(self, **knobs: Any) -> None:
        self.simulator.post("/_control", knobs)

    def fresh(self) -> None:
        """As if nothing had happened: what is cached is taken back, what was counted forgotten."""
        self.provider(latency_ms=0, token_ms=0, faults={})
        for replica in self.replicas:
            if replica.process.poll() is None:
                replica.post("/api/cache/invalidate", {"pattern": "*"})
                break
        self.simulator.post("/_reset")

    @property
    def calls(self) -> int:
        return int(self.simulator.get("/_stats")["accepted"])


@pytest.fixture(scope="module")
def _fleet() -> Iterator[Fleet]:
    with Stage() as stage:
        yield Fleet(stage)


@pytest.fixture
def fleet(_fleet: Fleet) -> Fleet:
    _fleet.fresh()
    _fleet.replicas = [
        it if it.process.poll() is None else _fleet.stage.gateway(_fleet.config) for it in _fleet.replicas
    ]
    return _fleet


def get(replica: Child, path: str, **headers: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", replica.port, timeout=30)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        body = response.read()
        return response.status, {name.lower(): value for name, value in response.getheaders()}, body
    finally:
        connection.close()


def try_to_get(replica: Child, path: str) -> None:
    """From a replica that will not live to answer."""
    with pytest.raises(OSError):  # noqa: PT011 - reset, refused, or closed without an answer
        get(replica, path)


def wait_for(what: Any, within: float = 10.0) -> float:
    """Seconds until something is so."""
    began = time.monotonic()
    while time.monotonic() - began < within:
        if what():
            return time.monotonic() - began
        time.sleep(0.01)
    raise AssertionError("it did not come about in time")


def test_everybody_who_asks_a_cold_topic_at_once_gets_one_answer_of_one_call(fleet: Fleet) -> None:
    fleet.provider(latency_ms=700)
    with ThreadPoolExecutor(90) as pool:
        found = list(
            pool.map(lambda index: get(fleet.replicas[index % 3], "/api/v1/topics/light"), range(90))
        )
    assert [status for status, _, _ in found] == [200] * 90
    assert len({body for _, _, body in found}) == 1
    assert fleet.calls == 1


def test_curl_twice_and_a_reload_go_miss_hit_304_and_a_second_replica_hits_redis(fleet: Fleet) -> None:
    one, two = fleet.replicas[:2]
    first, second = get(one, "/api/v1/topics/light/quiz"), get(one, "/api/v1/topics/light/quiz")
    reload = get(one, "/api/v1/topics/light/quiz", **{"If-None-Match": second[1]["etag"]})
    other = get(two, "/api/v1/topics/light/quiz")
    assert "fwd=miss" in first[1]["cache-status"]
    assert second[1]["cache-status"].startswith("knowalledge-memory; hit")
    assert (reload[0], reload[2]) == (304, b"")
    assert other[1]["cache-status"].startswith("knowalledge-redis; hit")
    assert first[2] == second[2] == other[2]
    assert fleet.calls == 1


def test_what_one_replica_takes_back_is_gone_from_all_within_a_second(fleet: Fleet) -> None:
    for replica in fleet.replicas:
        get(replica, "/api/v1/topics/light")
    assert fleet.replicas[0].post("/api/cache/invalidate", {"pattern": "topic:*"})["removed"] == 1
    for replica in fleet.replicas[1:]:
        gone = wait_for(
            lambda r=replica: "memory; hit" not in get(r, "/api/v1/topics/light")[1]["cache-status"]
        )
        assert gone < 1.0
    assert fleet.calls == 2


def test_a_leader_that_is_killed_is_replaced_and_nobody_notices(fleet: Fleet) -> None:
    fleet.provider(latency_ms=4000)
    leader, *others = fleet.replicas
    lost = threading.Thread(target=try_to_get, args=(leader, "/api/v1/topics/dusk"))
    lost.start()
    wait_for(lambda: fleet.calls == 1)
    with ThreadPoolExecutor(10) as pool:
        asked = [pool.submit(get, others[index % 2], "/api/v1/topics/dusk") for index in range(10)]
        time.sleep(0.3)  # they follow
        leader.kill()
        fleet.provider(latency_ms=100)
        found = [it.result() for it in asked]
    lost.join(10)
    assert [status for status, _, _ in found] == [200] * 10
    assert fleet.calls == 2


def stream(replica: Child, texts: list[str], statuses: list[str], body: dict[str, Any]) -> None:
    """Follow a stream; ``texts`` grows as it comes."""
    connection = HTTPConnection("127.0.0.1", replica.port, timeout=30)
    try:
        connection.request("POST", "/api/v1/generate", json.dumps(body))
        response = connection.getresponse()
        name = ""
        for line in response:
            text = line.decode().strip()
            if text.startswith("event: "):
                name = text[7:]
            elif text.startswith("data: ") and name == "delta":
                texts.append(json.loads(text[6:])["text"])
            elif text.startswith("data: ") and name in ("done", "error"):
                statuses.append(name)
    except OSError:
        statuses.append("lost")
    finally:
        connection.close()


def test_a_stream_whose_leader_is_killed_goes_on_for_its_followers_without_a_word_twice(fleet: Fleet) -> None:
    fleet.provider(token_ms=60)
    body = {"prompt": "tell [[out=60]]", "temperature": 0, "stream": True}
    leader, follower = fleet.replicas[0], fleet.replicas[1]
    first: list[str] = []
    texts: list[str] = []
    ends: list[str] = []
    threads = [threading.Thread(target=stream, args=(leader, first, [], body))]
    threads[0].start()
    wait_for(lambda: len(first) > 3)
    threads.append(threading.Thread(target=stream, args=(follower, texts, ends, body)))
    threads[1].start()
    wait_for(lambda: len("".join(texts)) >= len("".join(first[:3])))  # it has replayed, and follows live
    assert fleet.calls == 1
    leader.kill()
    fleet.provider(token_ms=1)
    for thread in threads:
        thread.join(30)
    assert ends == ["done"]
    assert fleet.calls == 2
    again: list[str] = []
    stream(follower, again, [], body)
    assert "".join(again) == "".join(texts)
    assert len("".join(texts).split()) == 60


def test_a_stream_whose_callers_all_leave_is_finished_and_kept(fleet: Fleet) -> None:
    fleet.provider(token_ms=20)
    body = {"prompt": "tell [[out=30]]", "temperature": 0, "stream": True}
    connection = HTTPConnection("127.0.0.1", fleet.replicas[0].port, timeout=30)
    connection.request("POST", "/api/v1/generate", json.dumps(body))
    connection.getresponse().readline()
    connection.close()
    ask = {"prompt": "tell [[out=30]]", "temperature": 0, "cache": "only"}
    wait_for(lambda: fleet.replicas[1].post("/api/v1/generate", ask).get("cache", {}).get("status") == "hit")
    assert fleet.calls == 1


def test_a_frozen_redis_hangs_nobody(fleet: Fleet) -> None:
    fleet.redis.signal(signal.SIGSTOP)
    try:
        began = time.monotonic()
        with ThreadPoolExecutor(20) as pool:
            paths = [f"/api/v1/topics/frozen-{index}/related" for index in range(20)]
            found = list(pool.map(lambda path: get(fleet.replicas[0], path)[0], paths))
        assert found == [200] * 20
        assert time.monotonic() - began < 8
    finally:
        fleet.redis.signal(signal.SIGCONT)


def test_a_dead_redis_is_done_without_and_a_new_one_is_filled_again(fleet: Fleet) -> None:
    one, two = fleet.replicas[:2]
    get(one, "/api/v1/topics/light")
    fleet.redis.kill()
    began = time.monotonic()
    assert get(one, "/api/v1/topics/light")[1]["cache-status"].startswith("knowalledge-memory; hit")
    assert get(one, "/api/v1/topics/cold")[0] == 200
    assert get(one, "/api/v1/topics/cold")[1]["cache-status"].startswith("knowalledge-memory; hit")
    assert time.monotonic() - began < 8
    fleet.redis = fleet.stage.redis(fleet.redis.port)

    def filled() -> bool:
        get(one, f"/api/v1/topics/new-{time.monotonic_ns()}/related?count=1")
        return bool(one.get("/api/cache/stats")["layers"]["redis"]["entries"])

    wait_for(filled, 15)
    path = "/api/v1/topics/after"
    get(one, path)
    assert get(two, path)[0] == 200
    assert get(two, path)[1]["cache-status"].startswith("knowalledge-memory; hit")
