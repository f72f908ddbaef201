"""Replicas that start while Redis is away, or at once: each spends its part of a number that it did not invent."""

import pytest
from redis import Redis

from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Granted, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import JOIN_PAUSE_S, ReplicaQuotaStore
from tests.support.doubles import CuttableRedis, ManualClock

LIMIT = 30
WINDOWS = {"t": (Window("rpm", Count.REQUESTS, LIMIT, 60),)}


class Node:
    """One replica of ``expected``."""

    def __init__(self, redis: Redis, clock: ManualClock, name: str, expected: int) -> None:
        self.link = CuttableRedis(redis)
        shared = RedisQuotaStore(
            self.link,
            WINDOWS,
            QueueRules(),
            clock,
            name,
            redis_now=lambda: str(int(clock.now() * SECOND)),
            auto_dispatch=False,
        )
        mirror = MemoryQuotaStore(WINDOWS, QueueRules(), clock, auto_dispatch=False)
        self.store = ReplicaQuotaStore(shared, mirror, WINDOWS, clock, expected_replicas=expected)

    def spend(self) -> int:
        """Requests that are granted of a hundred."""
        requests = (ReservationRequest(str(number), TokenCost(1, 0)) for number in range(100))
        return sum(isinstance(self.store.reserve("t", it), Granted) for it in requests)


@pytest.mark.parametrize("replicas", [1, 3, 10])
def test_replicas_that_never_reached_redis_spend_no_more_than_the_limit_together(
    replicas: int, redis_client: Redis, clock: ManualClock
) -> None:
    nodes = [Node(redis_client, clock, str(number), replicas) for number in range(replicas)]
    for node in nodes:
        node.link.cut = True
        node.store._begin()
        assert node.store.degraded
        assert not node.store.has_joined
    assert sum(node.spend() for node in nodes) == LIMIT


def test_replicas_that_start_together_know_of_each_other_before_they_believe_what_they_see(
    redis_client: Redis, clock: ManualClock
) -> None:
    nodes = [Node(redis_client, clock, name, 3) for name in "abc"]
    nodes[0].store._begin()  # the others are a moment behind, and Redis goes before they are seen
    for node in nodes:
        node.link.cut = True
    for node in nodes[1:]:
        node.store._begin()
    assert sum(node.spend() for node in nodes) <= LIMIT


def test_a_replica_that_has_seen_the_others_believes_what_it_sees(
    redis_client: Redis, clock: ManualClock
) -> None:
    node = Node(redis_client, clock, "a", 10)
    node.store._begin()
    clock.sleep(JOIN_PAUSE_S)
    node.store._send_heartbeats()
    node.link.cut = True
    assert node.spend() == LIMIT
