"""Reservations' ends on their way to Redis: what has gathered goes together, and no loss loses or doubles one."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain

import gevent
import pytest
from gevent.event import Event
from redis import Redis

from knowalledge.quota import replica
from knowalledge.quota.commands import EndedReservation, RedisUnavailable
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Reservation, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import MAX_ENDS_PER_CALL, ReplicaQuotaStore
from tests.support.decisions import granted
from tests.support.doubles import CuttableRedis, ManualClock

LIMITS = (Window("rpm", Count.REQUESTS, 1000, 60), Window("tpm", Count.TOKENS, 100_000, 60))
WINDOWS = {"t": LIMITS, "u": LIMITS}
MANY = 2 * MAX_ENDS_PER_CALL + 50
ACTUAL = TokenCost(10, 3)


class Calls(RedisQuotaStore):
    """The shared store, and the ends that each call of it has brought."""

    def __init__(self, link: CuttableRedis, clock: ManualClock) -> None:
        super().__init__(
            link,
            WINDOWS,
            QueueRules(),
            clock,
            "a",
            redis_now=lambda: str(int(clock.now() * SECOND)),
            auto_dispatch=False,
        )
        self.calls: list[list[str]] = []
        # What happens while a call is under way, by its number, and while its answer is.
        self.before: dict[int, Callable[[], object]] = {}
        self.after: dict[int, Callable[[], object]] = {}

    def finish(self, target: str, ends: Sequence[EndedReservation]) -> int:
        number = len(self.calls)
        self.calls.append([node.reservation.id for node in ends])
        self.before.get(number, _nothing)()
        live = super().finish(target, ends)
        self.after.get(number, _nothing)()
        return live

    def listen(self) -> None:
        gevent.sleep(60)  # a read would stop an unpatched process


def _nothing() -> None: ...


def _opens(door: Event) -> None:
    assert door.wait(5)


def _gone() -> None:
    raise RedisUnavailable("gone")


class Replica:
    """One replica, and what it has been granted."""

    def __init__(self, redis: Redis) -> None:
        clock = ManualClock()
        self.redis = redis
        self.link = CuttableRedis(redis)
        self.shared = Calls(self.link, clock)
        mirror = MemoryQuotaStore(WINDOWS, QueueRules(), clock, auto_dispatch=False)
        self.store = ReplicaQuotaStore(self.shared, mirror, WINDOWS, clock)

    def take(self, count: int, target: str = "t") -> list[Reservation]:
        return [
            granted(self.store.reserve(target, ReservationRequest(f"{target}{number}", TokenCost(10, 20))))
            for number in range(count)
        ]

    def settle(self, reservations: list[Reservation]) -> None:
        for node in reservations:
            self.store.settle(node, ACTUAL)

    def joined(self) -> None:
        """Until it is one of the many again."""
        with gevent.Timeout(5):
            while self.store.degraded:
                gevent.sleep(0.001)

    def spent(self) -> list[tuple[int, int]]:
        """Of each window what is used and what of that is held, as Redis has it."""
        return [(node.used, node.held) for node in self.shared.window_status("t")]


@pytest.fixture
def node(redis_client: Redis, monkeypatch: pytest.MonkeyPatch) -> Iterator[Replica]:
    monkeypatch.setattr(replica, "RECONNECT_S", 0.001)
    node = Replica(redis_client)
    yield node
    node.store.stop()


def in_order(calls: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(calls))


def ids(reservations: list[Reservation]) -> list[str]:
    return [node.id for node in reservations]


ALL = [(MANY, 0), (MANY * (ACTUAL.input + ACTUAL.output), 0)]


def test_the_first_end_goes_at_once_and_what_gathers_meanwhile_in_one_call(node: Replica) -> None:
    first, *rest = node.take(9)
    other = node.take(1, "u")
    door = Event()
    node.shared.before[0] = lambda: _opens(door)  # a Redis that is slow to answer
    node.store.start()
    node.settle([first])
    gevent.sleep(0)
    assert node.shared.calls == [["t0"]]
    node.settle(rest[:3])
    node.store.release(rest[3])
    gevent.sleep(0)
    node.store.release_rejected(rest[4])
    node.settle([*rest[5:], *other])
    gevent.sleep(0)
    assert node.shared.calls == [["t0"], ["u0"]]  # one target does not wait for another
    door.set()
    gevent.sleep(0)
    gevent.sleep(0)
    assert node.shared.calls == [["t0"], ["u0"], ids(rest)]
    totals = node.shared.totals("t")
    assert (totals.settled, totals.released, totals.rejected) == (7, 1, 1)


def test_one_call_brings_no_more_than_redis_may_be_held_up_by_and_keeps_the_order(node: Replica) -> None:
    reservations = node.take(MANY)
    node.settle(reservations)
    node.store.stop()
    assert [len(call) for call in node.shared.calls] == [100, 100, 50]
    assert in_order(node.shared.calls) == ids(reservations)
    assert node.spent() == ALL


@pytest.mark.parametrize("call", [0, 1, 2])
@pytest.mark.parametrize("heard", [False, True], ids=["unheard", "unanswered"])
def test_a_loss_in_the_middle_of_many_ends_loses_none_and_doubles_none(
    node: Replica, call: int, heard: bool
) -> None:
    reservations = node.take(MANY + 1)
    running = reservations.pop()
    (node.shared.after if heard else node.shared.before)[call] = _gone
    node.settle(reservations)
    node.store.stop()
    assert node.store.degraded
    node.joined()
    node.store.stop()
    assert in_order(node.shared.calls[call + 1 :]) == ids(reservations[call * MAX_ENDS_PER_CALL :])
    assert node.shared.totals("t").settled == MANY
    assert node.redis.hkeys("kn:{t}:live:a") == [running.id.encode()]
    node.store.settle(running, ACTUAL)
    node.store.stop()
    assert node.spent() == [(used + more, 0) for (used, _), more in zip(ALL, (1, 13), strict=True)]


@pytest.mark.parametrize("answered", ["alone", "joining", "back"])
def test_many_ends_are_all_told_of_though_redis_is_lost_to_another_while_a_call_is_under_way(
    node: Replica, answered: str
) -> None:
    reservations = node.take(MANY)
    early, late = reservations[:-10], reservations[-10:]
    joins, joined_late = Event(), Event()

    def joining() -> None:
        node.settle(late)
        joins.set()
        assert joined_late.wait(5)

    def lost() -> None:
        node.link.cut = True
        assert node.store.reserve("t", ReservationRequest("alone", TokenCost(1, 0))).degraded
        node.link.cut = False
        if answered == "joining":
            node.link.meanwhile = joining
            assert joins.wait(5)
        elif answered == "back":
            node.joined()

    node.shared.before[1] = lost
    node.settle(early)
    node.store.stop()
    joined_late.set()
    node.joined()
    if answered != "joining":
        node.settle(late)
    node.store.stop()
    assert in_order(node.shared.calls)[-50:] == ids(reservations[-50:])
    assert node.shared.totals("t").settled == MANY
    assert node.redis.hkeys("kn:{t}:live:a") == [b"alone"]
    assert node.spent() == [(used + 1, 0) for used, _ in ALL]


def test_ends_of_which_a_state_was_forgotten_are_told_to_the_new_one_to_which_all_is_brought(
    node: Replica,
) -> None:
    reservations = node.take(MANY + 1)
    running = reservations.pop()
    node.shared.before[1] = node.redis.flushdb
    node.settle(reservations)
    node.store.stop()
    assert not node.store.degraded
    assert in_order(node.shared.calls[2:]) == ids(reservations[MAX_ENDS_PER_CALL:])
    assert node.spent() == [
        (used + more, held) for (used, _), more, held in zip(ALL, (1, 30), (0, 20), strict=True)
    ]
    assert node.redis.hkeys("kn:{t}:live:a") == [running.id.encode()]


def test_an_end_is_told_of_twice_at_most_in_vain(node: Replica) -> None:
    reservations = node.take(3)
    node.settle([*reservations, *reservations])
    node.store.release(reservations[0])
    node.store.stop()
    node.settle(reservations)
    node.store.stop()
    assert node.shared.totals("t").settled == 3
    assert node.spent() == [(3, 0), (39, 0)]
