"""Ends that go to Redis in one call are what they are one by one, and whoever waits takes the room of all of them."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.quota.commands import EndedReservation, EpochMismatch, ReservationOutcome
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Granted, Queued, Reservation, ReservationRequest, Ticket
from knowalledge.quota.redis import RedisQuotaStore
from tests.contract.quota_stores import LEARNT, RULES, WINDOWS, agree, pump, redis_store, take
from tests.support.decisions import queued
from tests.support.doubles import ManualClock
from tests.support.properties import examples
from tests.support.stored import contents

ArrivalDraw = tuple[int, int, int, int, bool]
EndDraw = tuple[int, ReservationOutcome, int, int]

arrivals: st.SearchStrategy[ArrivalDraw] = st.tuples(
    st.integers(1, 300), st.integers(0, 200), st.integers(0, 9_000), st.integers(0, 11), st.booleans()
)
# Which of the reservations, so that the same may end twice; how; and what it took.
endings: st.SearchStrategy[list[EndDraw]] = st.lists(
    st.tuples(
        st.integers(0, 13), st.sampled_from(ReservationOutcome), st.integers(0, 400), st.integers(0, 400)
    ),
    max_size=20,
)
kinds = st.sampled_from([WINDOWS, WINDOWS[:2], (LEARNT, WINDOWS[1])])


def request_of(number: int, drawn_arrival: ArrivalDraw) -> ReservationRequest:
    first, second, _, level_and_tenant, waits = drawn_arrival
    patience = 10_000.0 if waits else 0.0
    return ReservationRequest(
        f"{number:04}",
        TokenCost(first, second),
        Priority(level_and_tenant % 4),
        ("", "light", "heavy")[level_and_tenant // 4],
        patience,
    )


def ends_of(granted: list[Reservation], drawn: list[EndDraw]) -> list[EndedReservation]:
    return [
        EndedReservation(
            granted[which % len(granted)],
            how,
            TokenCost(first, second) if how is ReservationOutcome.SETTLED else TokenCost(0, 0),
        )
        for which, how, first, second in drawn
        if granted
    ]


def after(
    redis: Redis, windows: tuple[Window, ...], history: list[ArrivalDraw]
) -> tuple[RedisQuotaStore, list[Reservation], ManualClock]:
    """A new state with what was granted, some of it to tenants who waited for it. Nobody waits any more."""
    redis.flushdb()
    clock = ManualClock()
    store = redis_store(redis, clock, *windows)
    granted = []
    for number, drawn_arrival in enumerate(history):
        clock.sleep(drawn_arrival[2] / 1000)
        result: object = store.reserve("t", request_of(number, drawn_arrival))
        if isinstance(result, Queued):
            for _ in range(8):
                clock.sleep(10.0)
                pump(store)
            ticket = result.ticket
            result = ticket.wait(0)
            ticket.leave(QueueOutcome.CANCELLED)
        if isinstance(result, Granted):
            granted.append(result.reservation)
    return store, granted, clock


@examples(80)
@given(
    history=st.lists(arrivals, min_size=1, max_size=14),
    drawn=endings,
    windows=kinds,
    milliseconds=st.integers(0, 70_000),
)
def test_ends_in_one_call_leave_the_very_state_that_they_leave_one_by_one(
    history: list[ArrivalDraw],
    drawn: list[EndDraw],
    windows: tuple[Window, ...],
    milliseconds: int,
    redis_client: Redis,
) -> None:
    states = []
    for together in (True, False):
        store, granted, clock = after(redis_client, windows, history)
        clock.sleep(milliseconds / 1000)
        ends = ends_of(granted, drawn)
        live = sum(store.finish("t", call) for call in ([ends] if together else [[end] for end in ends]))
        assert live == len({end.reservation.id for end in ends})
        states.append(
            (store.window_status("t"), store.totals("t"), store.queue_stats("t"), contents(redis_client))
        )
    assert states[0] == states[1]


class Waits(MemoryQuotaStore):
    """The arithmetic, which grants nothing at an end: ``dispatch`` comes when all of them have ended."""

    def _dispatch_if_waiting(self, target: str) -> None: ...


@examples(80)
@given(
    history=st.lists(st.tuples(st.lists(arrivals, max_size=8), endings), min_size=1, max_size=6),
    windows=kinds,
)
def test_whoever_waits_takes_the_room_of_all_that_ended_in_one_call(
    history: list[tuple[list[ArrivalDraw], list[EndDraw]]], windows: tuple[Window, ...], redis_client: Redis
) -> None:
    redis_client.flushdb()
    clock = ManualClock()
    pure = Waits({"t": windows}, RULES, clock, auto_dispatch=False)
    shared = redis_store(redis_client, clock, *windows)
    live: list[Reservation] = []
    waiting: list[tuple[Ticket, Ticket]] = []
    pure.window_status("t")  # both have seen the moment at which it begins
    number = 0
    for newcomers, drawn in history:
        for drawn_arrival in newcomers:
            number += 1
            clock.sleep(drawn_arrival[2] / 1000)
            one, other = (
                pure.reserve("t", request_of(number, drawn_arrival)),
                shared.reserve("t", request_of(number, drawn_arrival)),
            )
            assert one.window_status == other.window_status
            if isinstance(one, Granted) and isinstance(other, Granted):
                live.append(other.reservation)
            if isinstance(one, Queued) and isinstance(other, Queued):
                waiting.append((one.ticket, other.ticket))
        ends = ends_of(live, drawn)
        ended = shared.finish("t", ends)
        for end in ends:
            match end.outcome:
                case ReservationOutcome.SETTLED:
                    pure.settle(end.reservation, end.actual)
                case ReservationOutcome.RELEASED:
                    pure.release(end.reservation)
                case ReservationOutcome.REJECTED:
                    pure.release_rejected(end.reservation)
        if ended:
            pure.dispatch("t")
            agree(pure, shared)  # before anything but the ends has granted
        pump(pure)
        pump(shared)
        for tickets in list(waiting):
            mine, theirs = (ticket.wait(0) for ticket in tickets)
            if isinstance(mine, Granted) and isinstance(theirs, Granted):
                live.append(theirs.reservation)
            if mine is not None:
                waiting.remove(tickets)
        agree(pure, shared)


def test_nothing_is_granted_that_what_ends_in_the_same_call_has_spent(
    redis_client: Redis, clock: ManualClock
) -> None:
    store = redis_store(redis_client, clock, WINDOWS[1])
    released, settled = take(store, TokenCost(500, 0)), take(store, TokenCost(100, 400))
    waits = queued(
        store.reserve("t", ReservationRequest("waits", TokenCost(400, 0), Priority.HIGH, "", 100.0))
    )
    store.finish(
        "t",
        [
            EndedReservation(released, ReservationOutcome.RELEASED),
            EndedReservation(settled, ReservationOutcome.SETTLED, TokenCost(100, 700)),
        ],
    )
    store.heartbeat("t")
    assert waits.wait(0) is None
    assert store.window_status("t")[0].used == 800


def test_in_a_state_that_was_forgotten_nothing_of_a_call_is_done(
    redis_client: Redis, clock: ManualClock
) -> None:
    store = redis_store(redis_client, clock, *WINDOWS)
    ends = [
        EndedReservation(take(store, TokenCost(100, 100)), ReservationOutcome.SETTLED, TokenCost(100, 50))
        for _ in range(3)
    ]
    redis_client.hset("kn:{t}:quota", "ep", "another")
    before = contents(redis_client)
    with pytest.raises(EpochMismatch):
        store.finish("t", ends)
    assert contents(redis_client) == before


def test_a_target_without_windows_has_nothing_to_end(redis_client: Redis, clock: ManualClock) -> None:
    store = redis_store(redis_client, clock)
    assert (
        store.finish(
            "t", [EndedReservation(take(store, TokenCost(1, 1)), ReservationOutcome.SETTLED, TokenCost(1, 1))]
        )
        == 0
    )
    assert contents(redis_client) == {}
