"""A replica between a shared quota and its own part of it, on a line to a real Redis that can be cut."""

import gevent
import pytest
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.quota import replica
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Decision, Requeue, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
from tests.support.decisions import granted, queued
from tests.support.doubles import CuttableRedis

WINDOWS = {"t": (Window("rpm", Count.REQUESTS, 4, 60),)}


class StillClock:
    def now(self) -> float:
        return 1_790_000_000.0

    def monotonic(self) -> float:
        return 1_790_000_000.0

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nobody sleeps here for {seconds} s")


@pytest.fixture
def link(redis_client: Redis) -> CuttableRedis:
    return CuttableRedis(redis_client)


@pytest.fixture
def store(link: CuttableRedis, monkeypatch: pytest.MonkeyPatch) -> ReplicaQuotaStore:
    """A replica that looks for a Redis that is gone a thousand times a second."""
    monkeypatch.setattr(replica, "RECONNECT_S", 0.001)
    clock, rules = StillClock(), QueueRules()
    mirror = MemoryQuotaStore(WINDOWS, rules, clock, auto_dispatch=False)
    shared = RedisQuotaStore(
        link,
        WINDOWS,
        rules,
        clock,
        "a",
        redis_now=lambda: str(int(clock.now() * SECOND)),
        auto_dispatch=False,
    )
    return ReplicaQuotaStore(shared, mirror, WINDOWS, clock)


def joined(store: ReplicaQuotaStore) -> None:
    """Until it is one of the many again."""
    with gevent.Timeout(5):
        while store.degraded:
            gevent.sleep(0.001)


def test_what_comes_free_on_the_way_back_is_granted_by_redis_and_not_unseen_by_it(
    link: CuttableRedis, store: ReplicaQuotaStore
) -> None:

    def reserve(key: str, patience_s: float = 0.0) -> Decision:
        return store.reserve("t", ReservationRequest(key, TokenCost(1, 0), Priority.HIGH, "", patience_s))

    granted(reserve("1"))
    link.cut = True
    alone = [granted(reserve(key)) for key in ("2", "3", "4")]
    waiter = queued(reserve("5", patience_s=100.0))
    link.meanwhile = lambda: store.release(alone[0])  # while the join is on its way
    link.cut = False
    joined(store)
    assert waiter.wait(0) == Requeue()
    # What the join brought, and the end that followed it, add up to what is spent.
    store.stop()
    assert store.window_status("t")[0].used == 3


def test_an_end_that_arrives_while_redis_is_lost_to_another_is_told_once_and_stops_nobody(
    link: CuttableRedis, store: ReplicaQuotaStore
) -> None:
    ended = granted(store.reserve("t", ReservationRequest("1", TokenCost(1, 0))))

    def lost() -> None:
        link.cut = True
        assert store.reserve("t", ReservationRequest("2", TokenCost(1, 0))).degraded
        link.cut = False

    store.release(ended)
    link.meanwhile = lost
    store.stop()  # tells of the end
    joined(store)
    store.stop()
    assert store.window_status("t")[0].used == 1
