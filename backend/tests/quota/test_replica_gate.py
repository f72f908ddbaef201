"""What a provider has closed, known to every replica and brought to a Redis that has forgotten it."""

import gevent
import pytest
from gevent.event import Event
from redis import Redis

from knowalledge.quota import replica
from knowalledge.quota.commands import HeartbeatReply
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Decision, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
from tests.support.decisions import granted, refused
from tests.support.doubles import CuttableRedis

WINDOWS = {"t": (Window("rpm", Count.REQUESTS, 100, 60),)}
CLOSED_S, PASSED_S = 90.0, 10.0


class Time:
    """Two wall clocks that can be set, Redis' and a replica's, and what has truly passed."""

    def __init__(self) -> None:
        self.passed = 5_000.0
        self.ours = 1_790_000_000.0
        self.redis = 1_790_000_000.0

    def now(self) -> float:
        return self.ours + self.passed

    def monotonic(self) -> float:
        return self.passed

    def sleep(self, seconds: float) -> None:
        raise AssertionError(f"nobody sleeps here for {seconds} s")

    def moment(self) -> str:
        return str(int((self.redis + self.passed) * SECOND))


class Replica:
    """One replica; ``beaten`` is set when it has heard a whole heartbeat."""

    def __init__(self, redis: Redis, time: Time, name: str) -> None:
        self.link = CuttableRedis(redis)
        self.beaten = Event()
        self._beats = 0
        shared = Beating(self, time, name)
        mirror = MemoryQuotaStore(WINDOWS, QueueRules(), time, auto_dispatch=False)
        self.store = ReplicaQuotaStore(shared, mirror, WINDOWS, time)
        self._asked = 0

    def reserve(self) -> Decision:
        self._asked += 1
        return self.store.reserve("t", ReservationRequest(f"{id(self)}.{self._asked}", TokenCost(1, 0)))

    def beat(self) -> None:
        """Let it hear what the others know."""
        self.beaten.clear()
        self._beats = 0
        self.store.start()
        assert self.beaten.wait(5)
        self.store.stop()

    def began_to_beat(self) -> None:
        self._beats += 1
        if self._beats == 2:  # so the first has been taken in
            self.beaten.set()

    def joined(self) -> None:
        """Until it is one of the many again."""
        with gevent.Timeout(5):
            while self.store.degraded:
                gevent.sleep(0.001)


class Beating(RedisQuotaStore):
    """The shared store, whose heartbeats are counted. Nobody listens: a read would stop an unpatched process."""

    def __init__(self, owner: Replica, time: Time, name: str) -> None:
        super().__init__(
            owner.link, WINDOWS, QueueRules(), time, name, redis_now=time.moment, auto_dispatch=False
        )
        self._owner = owner

    def listen(self) -> None:
        gevent.sleep(60)

    def heartbeat(self, target: str) -> HeartbeatReply:
        self._owner.began_to_beat()
        return super().heartbeat(target)


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replica, "RECONNECT_S", 0.001)
    monkeypatch.setattr(replica, "HEARTBEAT_S", 0.001)


@pytest.fixture
def time() -> Time:
    return Time()


@pytest.fixture
def pair(redis_client: Redis, time: Time) -> tuple[Replica, Replica]:
    """Two that have joined, and know Redis' clock."""
    nodes = Replica(redis_client, time, "a"), Replica(redis_client, time, "b")
    for node in nodes:
        granted(node.reserve())
        node.beat()
    return nodes


def waits(decision: Decision) -> tuple[float, str]:
    refusal = refused(decision)
    return round(refusal.wait_s, 3), refusal.window


REST = (CLOSED_S - PASSED_S, "rpm")


@pytest.mark.parametrize("who", ["told", "heard"])
@pytest.mark.parametrize("ours", [0, -60, 3600, -3600])
@pytest.mark.parametrize("redis", [0, -86_400, 86_400])
def test_a_redis_that_comes_back_empty_learns_what_is_left_of_a_gate_whatever_the_clocks_were_set_to(
    pair: tuple[Replica, Replica], time: Time, redis_client: Redis, who: str, ours: int, redis: int
) -> None:
    closer, peer = pair
    closer.store.close_gate("t", CLOSED_S, "rpm")
    peer.beat()
    redis_client.flushdb()
    time.passed += PASSED_S
    time.ours += ours
    time.redis += redis
    left = closer if who == "told" else peer  # the other is gone for good
    assert waits(left.reserve()) == REST
    assert not left.store.degraded


def test_a_gate_is_brought_by_the_heartbeat_of_a_replica_that_nobody_asks(
    pair: tuple[Replica, Replica], time: Time, redis_client: Redis
) -> None:
    closer, other = pair
    closer.store.close_gate("t", CLOSED_S, "rpm")
    redis_client.flushdb()
    time.passed += PASSED_S
    closer.beat()
    assert waits(other.reserve()) == REST


def test_a_replica_that_is_alone_keeps_to_a_gate_that_another_was_told_of(
    pair: tuple[Replica, Replica], time: Time
) -> None:
    closer, peer = pair
    closer.store.close_gate("t", CLOSED_S, "rpm")
    peer.beat()
    time.passed += PASSED_S
    peer.link.cut = True
    nodes = peer.reserve()
    assert nodes.degraded
    assert waits(nodes) == REST


def test_what_a_replica_is_told_while_it_is_alone_holds_for_all_when_it_is_back(
    pair: tuple[Replica, Replica], time: Time
) -> None:
    alone, other = pair
    alone.link.cut = True
    assert alone.reserve().degraded
    alone.store.close_gate("t", CLOSED_S, "rpm")
    granted(other.reserve())
    time.passed += PASSED_S
    alone.link.cut = False
    alone.joined()
    assert waits(other.reserve()) == REST


def test_what_a_replica_is_told_while_its_join_is_on_the_way_is_not_lost(
    pair: tuple[Replica, Replica], time: Time
) -> None:
    joining, other = pair
    joining.link.cut = True
    assert joining.reserve().degraded
    joining.link.meanwhile = lambda: joining.store.close_gate("t", CLOSED_S, "rpm")
    joining.link.cut = False
    joining.joined()
    time.passed += PASSED_S
    assert waits(other.reserve()) == REST


def test_of_two_times_that_a_provider_names_the_later_is_brought(
    pair: tuple[Replica, Replica], time: Time, redis_client: Redis
) -> None:
    closer, _ = pair
    closer.store.close_gate("t", CLOSED_S, "rpm")
    closer.store.close_gate("t", PASSED_S + 5, "rpd")
    redis_client.flushdb()
    time.passed += PASSED_S
    assert waits(closer.reserve()) == REST


def test_a_gate_that_is_over_is_brought_to_nobody(
    pair: tuple[Replica, Replica], time: Time, redis_client: Redis
) -> None:
    closer, _ = pair
    closer.store.close_gate("t", CLOSED_S, "rpm")
    time.passed += CLOSED_S
    redis_client.flushdb()
    assert waits(closer.reserve()) == (replica.JOIN_PAUSE_S, "")  # so that all may join
    time.passed += replica.JOIN_PAUSE_S
    granted(closer.reserve())
