"""Latency from free quota to the grant of a waiter at another replica: after a release, and when a window frees up.

Two replicas' stores over one Redis, in real time, in a process of its own, patched as the gateway is:
``python -m bench.wake REDIS_PORT ROUNDS``; prints one JSON object.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
from redis import Redis  # noqa: E402

from bench.load import quantile  # noqa: E402
from knowalledge.core.clock import SystemClock  # noqa: E402
from knowalledge.net.redis.multiplexed import MultiplexedClient  # noqa: E402
from knowalledge.quota.domain.queue import QueueRules  # noqa: E402
from knowalledge.quota.domain.window import Count, TokenCost, Window  # noqa: E402
from knowalledge.quota.memory import MemoryQuotaStore  # noqa: E402
from knowalledge.quota.ports import Granted, Queued, Reservation, ReservationRequest, Ticket  # noqa: E402
from knowalledge.quota.redis import RedisQuotaStore  # noqa: E402
from knowalledge.quota.replica import ReplicaQuotaStore  # noqa: E402

WINDOWS = {
    "held": (Window("held", Count.REQUESTS, 1, 600),),
    "spent": (Window("spent", Count.REQUESTS, 1, 1),),
}
COST = TokenCost(1, 0)
PAUSE_S = 0.05
PATIENCE_S = 5000.0


def replica(port: int, name: str) -> ReplicaQuotaStore:
    url, clock = f"redis://127.0.0.1:{port}/0", SystemClock()
    client: Any = Redis.from_url(url)  # whose pubsub has no types
    shared = RedisQuotaStore(MultiplexedClient(url, 5.0, client.pubsub), WINDOWS, QueueRules(), clock, name)
    store = ReplicaQuotaStore(shared, MemoryQuotaStore(WINDOWS, QueueRules(), clock), WINDOWS, clock)
    store.start()
    return store


def reserve_now(store: ReplicaQuotaStore, target: str) -> Reservation:
    decision = store.reserve(target, ReservationRequest("first", COST))
    assert isinstance(decision, Granted)
    return decision.reservation


def enqueue(store: ReplicaQuotaStore, target: str, number: int) -> Ticket:
    decision = store.reserve(target, ReservationRequest(f"{number:05}", COST, patience_s=PATIENCE_S))
    assert isinstance(decision, Queued)
    return decision.ticket


def after_release(first: ReplicaQuotaStore, second: ReplicaQuotaStore, rounds: int) -> list[float]:
    """Milliseconds from a release at one replica to the grant at the other."""
    held = reserve_now(first, "held")
    latencies = []
    for number in range(rounds):
        ticket = enqueue(second, "held", number)
        gevent.sleep(PAUSE_S)
        started = time.perf_counter()
        first.release(held)
        granted = ticket.wait(10)
        latencies.append((time.perf_counter() - started) * 1000)
        assert isinstance(granted, Granted)
        held, first, second = granted.reservation, second, first
    return latencies


def after_expiry(first: ReplicaQuotaStore, second: ReplicaQuotaStore, rounds: int) -> list[float]:
    """Milliseconds from the time at which a charge leaves the window to the grant."""
    latencies = []
    reserve_now(first, "spent")
    for number in range(rounds):
        ticket = enqueue(second, "spent", number)
        eta_s, started = ticket.eta_s, time.perf_counter()
        granted = ticket.wait(10)
        latencies.append((time.perf_counter() - started - eta_s) * 1000)
        assert isinstance(granted, Granted)
        first, second = second, first
    return latencies


def main(port: int, rounds: int) -> None:
    first, second = replica(port, "a"), replica(port, "b")
    gevent.sleep(1)  # until both are subscribed
    times = {
        "after_release": after_release(first, second, rounds),
        "after_expiry": after_expiry(first, second, rounds // 10),
    }
    print(json.dumps({name: [quantile(it, 0.5), quantile(it, 0.99), max(it)] for name, it in times.items()}))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
