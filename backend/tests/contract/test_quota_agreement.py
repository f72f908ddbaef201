"""The two quota stores held against each other step by step, under one clock and any history."""

from datetime import UTC, datetime

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import (
    Dequeued,
    Granted,
    Queued,
    Requeue,
    Reservation,
    ReservationRequest,
    Ticket,
)
from tests.contract.quota_stores import KEYS, LEARNT, ONE, RULES, WINDOWS, Store, agree, pump, redis_store
from tests.support.decisions import assert_equal
from tests.support.doubles import ManualClock
from tests.support.properties import examples

# Two minutes before the days on which the clocks of WINDOWS' zone change, which have 25 and 23 hours.
AUTUMN = datetime(2026, 11, 1, 6, 58, tzinfo=UTC).timestamp()
SPRING = datetime(2027, 3, 14, 7, 58, tzinfo=UTC).timestamp()
# By names, so that an example is one to pin.
QUOTAS = {
    "minute": WINDOWS[:3],
    "day": WINDOWS,
    "learnt": (LEARNT, WINDOWS[1]),
    "long": (WINDOWS[0], Window("tokens in 20 min", Count.TOKENS, 3000, 1200)),
}

Step = tuple[str, int, int, int, int]
KINDS = {
    "ask": 3,
    "enter": 3,
    "settle": 2,
    "release": 1,
    "refused": 1,
    "again": 1,
    "leave": 1,
    "gate": 1,
    "wait": 2,
    "long": 1,
    "back": 2,
    "look": 2,
}
steps = st.lists(
    st.tuples(
        st.sampled_from([kind for kind, weight in KINDS.items() for _ in range(weight)]),
        st.integers(0, 400),
        st.integers(0, 300),
        st.integers(0, 90_000),
        st.integers(0, 11),
    ),
    max_size=50,
)


class Pair:
    """A store in process and one in Redis, which are told the same."""

    def __init__(self, windows: tuple[Window, ...], start: float, redis: Redis) -> None:
        redis.flushdb()
        self.clock = ManualClock()
        self.clock.time = start
        self.stores: tuple[Store, Store] = (
            MemoryQuotaStore({"t": windows}, RULES, self.clock, auto_dispatch=False),
            redis_store(redis, self.clock, *windows),
        )
        self.live: list[tuple[Reservation, Reservation]] = []
        self.ended: list[tuple[Reservation, Reservation]] = []
        self.waiting: list[tuple[Ticket, Ticket]] = []
        self.requests: dict[int, ReservationRequest] = {}
        agree(*self.stores)  # both have seen the moment at which it begins

    def reserve(self, request: ReservationRequest) -> bool:
        """Whether both granted it."""
        one, other = (store.reserve("t", request) for store in self.stores)
        assert_equal(one, other)
        if isinstance(one, Granted) and isinstance(other, Granted):
            self.live.append((one.reservation, other.reservation))
        if isinstance(one, Queued) and isinstance(other, Queued):
            assert one.ticket.arrived == other.ticket.arrived
            self.waiting.append((one.ticket, other.ticket))
            self.requests[id(one.ticket)] = request
        return isinstance(one, Granted)

    def end(self, how: str, which: int, actual: TokenCost = ONE) -> None:
        """End a reservation; where none is live, once more one that has ended."""
        if self.live:
            self.ended.append(self.live.pop(which % len(self.live)))
        for store, reservation in zip(self.stores, self.ended[-1] if self.ended else (), strict=False):
            if how == "settle":
                store.settle(reservation, actual)
            elif how == "release":
                store.release(reservation)
            else:
                store.release_rejected(reservation)

    def leave(self, which: int, again: bool) -> None:
        """Give up a place; ``again``: to ask for another, as one that has waited since."""
        if not self.waiting:
            return
        tickets = self.waiting.pop(which % len(self.waiting))
        for ticket in tickets:
            ticket.leave(QueueOutcome.CANCELLED)
        request = self.requests.pop(id(tickets[0]))
        if again:
            arrived = tickets[0].arrived
            self.reserve(
                ReservationRequest(
                    f"{request.id}+", request.cost, request.level, request.tenant, request.patience_s, arrived
                )
            )

    def pump(self) -> None:
        """What the stores' own greenlets do when their time comes."""
        assert pump(self.stores[0]) == pytest.approx(pump(self.stores[1]), abs=1e-5)
        for tickets in list(self.waiting):
            mine, theirs = (ticket.wait(0) for ticket in tickets)
            # Nobody listens here for the message that a place was shed; the heartbeat finds only that it is gone.
            assert type(mine) is type(theirs) or (mine, theirs) == (Dequeued(QueueOutcome.SHED), Requeue())
            if isinstance(mine, Granted) and isinstance(theirs, Granted):
                self.live.append((mine.reservation, theirs.reservation))
            if mine is not None:
                self.waiting.remove(tickets)

    def step(self, number: int, step: Step) -> None:
        kind, first, second, milliseconds, who = step
        match kind:
            case "wait":
                self.clock.sleep(milliseconds / 1000)
            case "long":
                self.clock.sleep(milliseconds / 20)
            case "back":
                self.clock.sleep(-milliseconds / 150)  # up to twice what is waited for
            case "gate":
                for store in self.stores:
                    store.close_gate("t", milliseconds / 10_000, "rpm")
            case "ask" | "enter":
                patience = 0.0 if kind == "ask" else milliseconds / 1000
                tenant = ("", "light", "heavy")[who // 4]
                self.reserve(
                    ReservationRequest(
                        f"{number:04}", TokenCost(first + 1, second), Priority(who % 4), tenant, patience
                    )
                )
            case "again" | "leave":
                self.leave(first, kind == "again")
            case "look":
                self.pump()
                agree(*self.stores)
            case _:
                self.end(kind, first, TokenCost(first, second * 2))
        # Not after every step: what is looked at has seen the moment, and what nobody looks at must not need to.
        if self.waiting:
            self.pump()


@examples(120)
@example(  # A look-back in which only a question was asked was remembered by one of the two.
    history=[
        ("settle", 0, 0, 0, 0),
        ("settle", 0, 0, 0, 0),
        ("back", 0, 0, 3001, 0),
        ("ask", 0, 0, 0, 0),
        ("ask", 0, 0, 0, 0),
        ("wait", 0, 0, 30007, 0),
    ],
    quota="minute",
    start=1_790_000_000.0,
)
@given(
    history=steps,
    quota=st.sampled_from(list(QUOTAS)),
    start=st.sampled_from([1_790_000_000.0, AUTUMN, SPRING]),
)
def test_the_scripts_and_the_arithmetic_agree_step_by_step(
    history: list[Step], quota: str, start: float, redis_client: Redis
) -> None:
    pair = Pair(QUOTAS[quota], start, redis_client)
    for number, step in enumerate(history):
        pair.step(number, step)
    pair.pump()
    agree(*pair.stores)


learning = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "fill", "fill", "first", "last", "settle"]),
        st.sampled_from([0.0, 0.1, 0.4, 1.0, 2.5, 3.0, 19.5, 55.0, -2.0, -400.0]),
    ),
    min_size=10,
    max_size=40,
)


@examples(30)
@example(history=[("fill", 1.0)] * 3 + [("last", 0.1)] + [("first", 0.1)] * 3, level=Priority.HIGH)
@given(history=learning, level=st.sampled_from([Priority.HIGH, Priority.LOW]))
def test_the_scripts_and_the_arithmetic_learn_the_same(
    history: list[tuple[str, float]], level: Priority, redis_client: Redis
) -> None:
    pair = Pair((LEARNT,), 1_790_000_000.0, redis_client)
    for kind, seconds in history:
        pair.clock.sleep(seconds)
        if kind == "ask":
            pair.reserve(ReservationRequest(f"{next(KEYS):06}", ONE, level, "", 0.0))
        elif kind == "fill":  # as fast as the pace allows, for a moment
            for _ in range(20):
                if not pair.reserve(ReservationRequest(f"{next(KEYS):06}", ONE, level, "", 0.0)):
                    pair.clock.sleep(0.25)
        elif pair.live:
            pair.end("settle" if kind == "settle" else "refused", -1 if kind == "last" else 0)
        assert pair.stores[0].window_status("t") == pair.stores[1].window_status("t")
