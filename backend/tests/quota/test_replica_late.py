"""A grant that is heard late is charged as of the moment at which it is spent, or not spent."""

import pytest
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.quota.commands import LocalUsage
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.ports import Granted, Requeue, ReservationRequest, Ticket
from knowalledge.quota.redis import RedisQuotaStore
from tests.support.decisions import granted, queued
from tests.support.doubles import CuttableRedis, ManualClock

RPM = Window("rpm", Count.REQUESTS, 1, 60)
WINDOWS = {"t": (RPM, Window("tpm", Count.TOKENS, 1000, 60), Window("rpd", Count.REQUESTS, 50, 86_400))}


class Replicas:
    """One request is granted at ``b``, and the next waits at ``a``."""

    def __init__(self, redis: Redis) -> None:
        self.clock, self.redis = ManualClock(), redis
        self.a, self.b = (self.store(name) for name in "ab")
        self.first = granted(self.b.reserve("t", ReservationRequest("first", TokenCost(5, 0))))
        request = ReservationRequest("waits", TokenCost(7, 0), Priority.HIGH, "", 1000.0)
        self.ticket: Ticket = queued(self.a.reserve("t", request))
        self.a.heartbeat("t")

    def store(self, name: str) -> RedisQuotaStore:
        store = RedisQuotaStore(
            CuttableRedis(self.redis),
            WINDOWS,
            QueueRules(),
            self.clock,
            name,
            redis_now=lambda: str(int(self.clock.now() * SECOND)),
            auto_dispatch=False,
        )
        store.join("t", lambda _: LocalUsage(({},) * 3, (0,) * 3, (1, 1000, 50), (), ()), 0)
        return store

    def release(self) -> None:
        """The waiter is granted, and the message about it is lost."""
        self.b.release(self.first)

    def used(self) -> list[int]:
        return [it.used for it in self.b.window_status("t")]


@pytest.fixture
def replicas(redis_client: Redis) -> Replicas:
    return Replicas(redis_client)


def test_a_late_grant_counts_for_a_whole_window_from_when_it_is_spent(replicas: Replicas) -> None:
    replicas.release()
    replicas.clock.sleep(3.0)
    replicas.a.heartbeat("t")
    assert isinstance(replicas.ticket.wait(5), Granted)
    assert replicas.used() == [1, 7, 1]
    replicas.clock.sleep(58.0)  # more than a window after the grant, less than one after it was spent
    assert replicas.used() == [1, 7, 1]
    replicas.clock.sleep(3.0)
    assert replicas.used() == [0, 0, 1]


def test_a_grant_that_is_heard_within_the_guard_is_spent_as_it_is(replicas: Replicas) -> None:
    replicas.release()
    replicas.clock.sleep(0.2)
    replicas.a.heartbeat("t")
    assert isinstance(replicas.ticket.wait(0), Granted)
    replicas.clock.sleep(60.3)
    assert replicas.used() == [0, 0, 1]


def test_a_grant_whose_window_has_passed_is_reserved_again(replicas: Replicas) -> None:
    replicas.release()
    replicas.clock.sleep(61.0)
    replicas.a.heartbeat("t")
    assert replicas.ticket.wait(5) == Requeue()
    assert replicas.used() == [0, 0, 0]
    assert replicas.redis.hlen("kn:{t}:live:a") == 0
