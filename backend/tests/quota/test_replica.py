"""A replica between a shared quota and its own part of it, on a line to a real Redis that can be cut."""

import gevent
import pytest
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.quota import replica
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import AskAgain, Decision, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
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
def line(redis_client: Redis) -> CuttableRedis:
    return CuttableRedis(redis_client)


@pytest.fixture
def store(line: CuttableRedis, monkeypatch: pytest.MonkeyPatch) -> ReplicaQuotaStore:
    """A replica that looks for a Redis that is gone a thousand times a second."""
    monkeypatch.setattr(replica, "PROBE_S", 0.001)
    clock, rules = StillClock(), QueueRules()
    mirror = MemoryQuotaStore(WINDOWS, rules, clock, pumps=False)
    shared = RedisQuotaStore(
        line, WINDOWS, rules, clock, "a", moment=lambda: str(int(clock.now() * SECOND)), pumps=False
    )
    return ReplicaQuotaStore(shared, mirror, WINDOWS, clock)


def joined(store: ReplicaQuotaStore) -> None:
    """Until it is one of the many again."""
    with gevent.Timeout(5):
        while store.degraded:
            gevent.sleep(0.001)


def test_what_comes_free_on_the_way_back_is_granted_by_redis_and_not_unseen_by_it(
    line: CuttableRedis, store: ReplicaQuotaStore
) -> None:

    def ask(key: str, patience_s: float = 0.0) -> Decision:
        return store.ask("t", ReservationRequest(key, TokenCost(1, 0), Priority.HIGH, "", patience_s))

    assert ask("1").reservation is not None
    line.cut = True
    alone = [ask(key).reservation for key in ("2", "3", "4")]
    assert None not in alone
    waiter = ask("5", patience_s=100.0).ticket
    assert waiter is not None
    assert alone[0] is not None
    line.meanwhile = lambda: store.release(alone[0])  # while the join is on its way
    line.cut = False
    joined(store)
    assert waiter.wait(0) is AskAgain.AGAIN
    # What the join brought, and the end that followed it, add up to what is spent.
    store.stop()
    assert store.levels("t")[0].used == 3


def test_an_end_that_arrives_while_redis_is_lost_to_another_is_told_once_and_stops_nobody(
    line: CuttableRedis, store: ReplicaQuotaStore
) -> None:
    ended = store.ask("t", ReservationRequest("1", TokenCost(1, 0))).reservation
    assert ended is not None

    def lost() -> None:
        line.cut = True
        assert store.ask("t", ReservationRequest("2", TokenCost(1, 0))).degraded
        line.cut = False

    store.release(ended)
    line.meanwhile = lost
    store.stop()  # tells of the end
    joined(store)
    store.stop()
    assert store.levels("t")[0].used == 1
