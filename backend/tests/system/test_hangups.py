"""Clients that hang up at any moment leave nothing behind: no reservation, no place in the queue."""

import asyncio
import json
import random
import time
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import gevent
import pytest
from redis import Redis

from knowalledge.core.clock import SystemClock
from knowalledge.quota.commands import LocalUsage
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.ports import ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from tests.system.processes import gateway, simulator

CONFIG = """
models:
  m:
    targets:
      - name: t
        provider: vertex
        project: p
        location: l
        credentials: anonymous
        base_url: "{google}"
        quota: {{rpm: {rpm}, tpm: 1000000}}
"""


async def ask(port: int, stays_s: float, stream: bool) -> None:
    """Ask, and hang up after a while whatever has come."""
    body = json.dumps({"prompt": f"hi {stays_s}", "stream": stream, "cache": "bypass"}).encode()
    _, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(
        b"POST /api/v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
    )
    await asyncio.sleep(stays_s)
    writer.transport.abort()


async def many(port: int) -> None:
    dice = random.Random(7)
    for _ in range(6):
        await asyncio.gather(*(ask(port, dice.random() * 0.4, dice.random() < 0.5) for _ in range(50)))


def read(url: str) -> Any:
    with urlopen(url) as answer:
        return json.load(answer)


@pytest.mark.system
@pytest.mark.parametrize(("shared", "rpm"), [(True, 100_000), (True, 150), (False, 100_000)])
def test_clients_that_hang_up_at_any_moment_leave_nothing_behind(
    tmp_path: Path, redis_client: Redis, redis_url: str, shared: bool, rpm: int
) -> None:
    redis = f"redis_url: {redis_url}\n" if shared else ""
    with (
        simulator(tmp_path, "--latency-ms", "20", "--token-ms", "2") as google,
        gateway(redis + CONFIG.format(google=google, rpm=rpm), tmp_path) as url,
    ):
        asyncio.run(many(int(url.rpartition(":")[2])))
        until = time.monotonic() + 15
        while True:
            held = [it["reserved"] for it in read(f"{url}/api/quota/stats")["targets"]["t"]["windows"]]
            waiting = [it["waiting"] for it in read(f"{url}/api/queue/stats")["targets"]["t"].values()]
            if not any(held) and not any(waiting):
                break
            assert time.monotonic() < until, (held, waiting)
            time.sleep(0.05)
        if rpm > 1000:
            with urlopen(Request(f"{url}/api/v1/generate", b'{"prompt": "hi"}')) as answer:
                assert answer.status == 200
    assert "Traceback" not in (tmp_path / "gateway.log").read_text()


class Deaf:
    """A client of Redis whose caller is struck after the command has gone out and before its reply is read."""

    def __init__(self, client: Redis) -> None:
        self._client: Any = client
        self.strikes = False

    def execute_command(self, *args: Any) -> Any:
        reply = self._client.execute_command(*args)
        if self.strikes:
            self.strikes = False
            raise gevent.GreenletExit
        return reply

    def pubsub(self, **options: Any) -> Any:
        return self._client.pubsub(**options)


@pytest.mark.parametrize("taken", [0, 1])
def test_a_caller_that_is_struck_while_it_asks_leaves_neither_a_reservation_nor_a_place(
    redis_client: Redis, taken: int
) -> None:
    window = Window("rpm", Count.TOKENS, 10, 60)
    client = Deaf(redis_client)
    store = RedisQuotaStore(client, {"t": (window,)}, QueueRules(), SystemClock(), "a", auto_dispatch=False)
    store.join("t", lambda _: LocalUsage(({},), (0,), (10,), (), ()), 0)
    for _ in range(taken):  # then the caller waits, else it is granted at once
        store.reserve("t", ReservationRequest("first", TokenCost(4, 4)))
    before = store.window_status("t")[0]
    client.strikes = True
    with pytest.raises(gevent.GreenletExit):
        store.reserve("t", ReservationRequest("second", TokenCost(4, 4), patience_s=30.0))
    gevent.sleep(0.05)
    assert (store.window_status("t")[0].used, store.window_status("t")[0].held) == (before.used, before.held)
    assert not any(depth.waiting for depth in store.queue_stats("t"))
