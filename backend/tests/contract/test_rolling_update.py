"""A rolling update: replicas of the version before and of this one share one Redis, each through its own scripts.

They may take turns in any way. What they leave in Redis is what replicas of one version leave, key by key: nothing is
corrupted, nothing counts double, nothing is lost.
"""

from collections.abc import Iterator
from itertools import cycle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.net.redis.scripts import Script
from knowalledge.quota.commands import SCRIPTS, Gate, LocalUsage, QuotaScripts
from knowalledge.quota.domain.queue import QueueOutcome, Waiter
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.ports import Granted, Queued, Reservation, ReservationRequest, Ticket
from knowalledge.quota.redis import RedisQuotaStore
from tests.contract.quota_stores import LEARNT, ONE, RULES, WINDOWS, join
from tests.support.decisions import granted, refused
from tests.support.doubles import ManualClock
from tests.support.properties import examples
from tests.support.stored import contents

FILES = Path(__file__).parent / "data/previous-scripts"


def previous(name: str, *preludes: str) -> Script:
    return Script("\n".join((FILES / f"{part}.lua").read_text() for part in (*preludes, name)))


PREVIOUS = QuotaScripts(
    reserve=previous("ask", "_ledger", "_room"),
    finish=previous("finish", "_ledger", "_room"),
    dispatch=previous("dispatch", "_ledger", "_room"),
    leave=previous("leave", "_ledger", "_room"),
    heartbeat=previous("beat", "_ledger", "_room"),
    join=previous("join", "_ledger", "_room"),
    close_gate=previous("gate", "_ledger"),
    window_status=previous("levels", "_ledger", "_room"),
    queue_stats=previous("depths", "_ledger", "_room"),
    positions=previous("places", "_ledger", "_room"),
)
QUOTAS = {
    "day": WINDOWS,
    "learnt": (LEARNT, WINDOWS[1]),
    "long": (WINDOWS[0], Window("tokens in 20 min", Count.TOKENS, 3000, 1200)),
}


class Replicas:
    """Two replicas behind one quota, ``a`` and ``b``, each with the scripts of a version."""

    def __init__(self, redis: Redis, windows: tuple[Window, ...], *versions: QuotaScripts) -> None:
        redis.flushdb()
        self.clock = ManualClock()
        self.stores = [
            RedisQuotaStore(
                redis,
                {"t": windows},
                RULES,
                self.clock,
                name,
                redis_now=lambda: str(int(self.clock.now() * SECOND)),
                auto_dispatch=False,
                scripts=version,
            )
            for name, version in zip("ab", versions, strict=True)
        ]
        for store in self.stores:
            join(store, windows)
        self.windows = windows
        self.live: list[tuple[RedisQuotaStore, Reservation]] = []
        self.waiting: list[tuple[RedisQuotaStore, Ticket]] = []
        self.log: list[object] = []

    def step(self, number: int, step: "Step") -> None:
        """One call of the replica that is drawn, and what it answers."""
        kind, replica, input_tokens, output_tokens, milliseconds, who = step
        store = self.stores[replica]
        self.clock.sleep(milliseconds / 1000)
        match kind:
            case "reserve" | "enter":
                self.reserve(store, number, TokenCost(input_tokens, output_tokens), who, kind == "enter")
            case "settle" | "release" | "reject" if self.live:
                owner, reservation = self.live.pop(input_tokens % len(self.live))
                if kind == "settle":
                    owner.settle(reservation, TokenCost(input_tokens, output_tokens))
                elif kind == "release":
                    owner.release(reservation)
                else:
                    owner.release_rejected(reservation)
            case "leave" if self.waiting:
                self.waiting.pop(input_tokens % len(self.waiting))[1].leave(QueueOutcome.CANCELLED)
            case "close":
                store.close_gate("t", milliseconds / 10_000, "rpm")
            case "look":
                self.log += [store.window_status("t"), store.queue_stats("t"), store.totals("t")]
            case "join":
                self.join(store, replica)
        self.log.append(store.dispatch("t"))
        self.hear()

    def reserve(self, store: RedisQuotaStore, number: int, cost: TokenCost, who: int, waits: bool) -> None:
        tenant, patience_s = ("", "light", "heavy")[who // 4], 10_000.0 if waits else 0.0
        request = ReservationRequest(f"{number:04}", cost, Priority(who % 4), tenant, patience_s)
        decision = store.reserve("t", request)
        match decision:
            case Granted(reservation):
                self.live.append((store, reservation))
            case Queued(ticket):
                self.waiting.append((store, ticket))
                self.log.append((ticket.position, ticket.eta_s, ticket.arrived))
            case _:
                self.log.append((decision.reason, decision.wait_s, decision.window))
        self.log.append(decision.window_status)

    def join(self, store: RedisQuotaStore, replica: int) -> None:
        """Once more, after a time without Redis in which it has spent a little."""
        self.waiting = [it for it in self.waiting if it[0] is not store]
        own = [reservation for owner, reservation in self.live if owner is store]
        live = tuple((Waiter(it.id, Priority.HIGH, "", it.cost, 0), (0,) * len(self.windows)) for it in own)
        now = int(self.clock.now() * SECOND)
        charges = tuple({now // window.width: 1 + replica} for window in self.windows)
        floors, limits = (0,) * len(self.windows), tuple(it.limit for it in self.windows)
        usage = LocalUsage(charges, floors, limits, live, (), gate=Gate(SECOND, "rpm"))
        store.join("t", lambda everything: usage, 0.0)

    def hear(self) -> None:
        for store in self.stores:
            beat = store.heartbeat("t")
            self.log.append((beat.clock_us, beat.replicas, beat.gate, beat.window_status))
        for store, ticket in list(self.waiting):
            result = ticket.wait(0)
            if isinstance(result, Granted):
                self.live.append((store, result.reservation))
            if result is not None:
                self.waiting.remove((store, ticket))


Step = tuple[str, int, int, int, int, int]
KINDS = (
    "reserve",
    "reserve",
    "enter",
    "enter",
    "settle",
    "settle",
    "release",
    "reject",
    "leave",
    "close",
    "look",
)
steps = st.lists(
    st.tuples(
        st.sampled_from([*KINDS, "join"]),
        st.integers(0, 1),
        st.integers(1, 400),
        st.integers(0, 300),
        st.integers(0, 20_000),
        st.integers(0, 11),
    ),
    max_size=40,
)


@examples(60)
@given(history=steps, quota=st.sampled_from(list(QUOTAS)))
def test_replicas_of_two_versions_leave_in_redis_what_replicas_of_one_leave(
    history: list[Step], quota: str, redis_client: Redis
) -> None:
    results: list[tuple[list[object], dict[bytes, Any]]] = []
    for versions in ((SCRIPTS, SCRIPTS), (PREVIOUS, SCRIPTS), (SCRIPTS, PREVIOUS)):
        replicas = Replicas(redis_client, QUOTAS[quota], *versions)
        for number, step in enumerate(history):
            replicas.step(number, step)
        results.append((replicas.log, contents(redis_client)))
    same, old_first, new_first = results
    assert old_first == same
    assert new_first == same


@pytest.fixture(params=[(PREVIOUS, SCRIPTS), (SCRIPTS, PREVIOUS)], ids=["old then new", "new then old"])
def pair(request: pytest.FixtureRequest, redis_client: Redis) -> Replicas:
    return Replicas(redis_client, WINDOWS[:2], *request.param)


def in_turns(pair: Replicas) -> Iterator[RedisQuotaStore]:
    return cycle(pair.stores)


def test_two_versions_grant_the_limit_once_between_them(pair: Replicas) -> None:
    decisions = [
        store.reserve("t", ReservationRequest(f"{number}", ONE))
        for number, store in zip(range(12), in_turns(pair), strict=False)
    ]
    assert [isinstance(it, Granted) for it in decisions] == [True] * 10 + [False] * 2


def test_what_a_replica_of_one_version_reserved_one_of_the_other_sees_and_it_settles_once(
    pair: Replicas,
) -> None:
    first, second = pair.stores
    reservation = granted(first.reserve("t", ReservationRequest("1", TokenCost(100, 600))))
    refused(second.reserve("t", ReservationRequest("2", TokenCost(400, 0))))
    first.settle(reservation, TokenCost(100, 50))
    first.settle(reservation, TokenCost(100, 50))
    assert [it.used for it in second.window_status("t")] == [1, 150]
    assert second.totals("t").settled == 1


def test_a_waiter_of_one_version_is_granted_by_a_release_of_the_other(pair: Replicas) -> None:
    first, second = pair.stores
    held = granted(first.reserve("t", ReservationRequest("1", TokenCost(900, 0))))
    decision = second.reserve("t", ReservationRequest("2", TokenCost(400, 0), patience_s=100.0))
    assert isinstance(decision, Queued)
    first.release(held)
    second.heartbeat("t")
    assert isinstance(decision.ticket.wait(0), Granted)
    assert [it.used for it in first.window_status("t")] == [1, 400]


def test_what_a_dead_replica_of_one_version_held_the_other_sweeps(pair: Replicas) -> None:
    dead, living = pair.stores
    granted(dead.reserve("t", ReservationRequest("1", TokenCost(100, 600))))
    pair.clock.sleep(5.0)
    beat = living.heartbeat("t")
    assert beat.replicas == 1
    assert [(it.used, it.held) for it in beat.window_status] == [(1, 0), (700, 0)]
