"""``python -m tests.system.silent REDIS_PORT``: a replica whose subscription goes silent without being closed.

A program of its own, because gevent's patch must come before any other import. Prints what the replica heard, as JSON.
"""

import knowalledge.patched  # noqa: F401, I001

import json
import sys
from collections.abc import Callable
from typing import Any

import gevent
from gevent import socket
from gevent.server import StreamServer
from redis import Redis

from knowalledge.core.clock import SystemClock
from knowalledge.core.context import Priority
from knowalledge.net.redis.client import make_client
from knowalledge.net.redis.multiplexed import MultiplexedClient
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Granted, ReservationRequest, Ticket
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
from tests.support.decisions import granted, queued

WINDOWS = {"t": (Window("rpm", Count.REQUESTS, 1, 600),)}


class DroppingProxy:
    """Forwards bytes both ways, until it drops those of the connections that it has: no FIN, no RST, only silence."""

    def __init__(self, port: int) -> None:
        self._port = port
        self.connections: list[list[bool]] = []  # whether each is forwarded
        self._server = StreamServer(("127.0.0.1", 0), self._serve)
        self._server.start()
        self.port = self._server.server_port

    def drop(self) -> None:
        for forwarded in self.connections:
            forwarded[0] = False

    def _serve(self, client: Any, _: object) -> None:
        server, forwarded = socket.create_connection(("127.0.0.1", self._port)), [True]
        self.connections.append(forwarded)
        gevent.joinall(
            [gevent.spawn(self._copy, *pair, forwarded) for pair in ((client, server), (server, client))]
        )

    @staticmethod
    def _copy(source: Any, sink: Any, forwarded: list[bool]) -> None:
        while data := source.recv(65536):
            if forwarded[0]:
                sink.sendall(data)


def main(port: int) -> None:
    proxy, clock, rules = DroppingProxy(port), SystemClock(), QueueRules()
    direct = f"redis://127.0.0.1:{port}/0"
    pool: Any = make_client(f"redis://127.0.0.1:{proxy.port}/0", 1.0, 10)
    heard: list[bytes] = []

    class Recording(RedisQuotaStore):
        def _receive(self, data: bytes) -> None:
            heard.append(data)
            super()._receive(data)

    shared = Recording(MultiplexedClient(direct, 1.0, pool.pubsub), WINDOWS, rules, clock, "a")
    store = ReplicaQuotaStore(shared, MemoryQuotaStore(WINDOWS, rules, clock), WINDOWS, clock)
    store.start()

    def wait_for(true: Callable[[], object], what: str) -> None:
        with gevent.Timeout(20, RuntimeError(f"never: {what}")):
            while not true():
                gevent.sleep(0.02)

    def enqueue(name: str) -> Ticket:
        return queued(
            store.reserve("t", ReservationRequest(name, TokenCost(1, 0), Priority.HIGH, "", 5000.0))
        )

    def listeners() -> int:
        with Redis(port=port) as redis:
            return int(redis.pubsub_numsub("kn:replica:a")[0][1])

    wait_for(listeners, "subscribed")
    first = granted(store.reserve("t", ReservationRequest("first", TokenCost(1, 0))))
    waiter = enqueue("second")
    proxy.drop()
    store.release(first)
    second = waiter.wait(20)
    assert isinstance(second, Granted), second
    lost = not heard
    wait_for(lambda: len(proxy.connections) == 2 and listeners() == 2, "subscribed again")
    waiter = enqueue("third")
    store.release(second.reservation)
    third = waiter.wait(20)
    assert isinstance(third, Granted), third
    wait_for(lambda: heard, "a message")
    print(json.dumps({"lost": lost, "heard": len(heard), "degraded": store.degraded}), flush=True)
    store.stop()


if __name__ == "__main__":
    main(int(sys.argv[1]))
