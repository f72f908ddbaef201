"""One suite over both quota stores, and the two held against each other step by step under one clock."""

from datetime import UTC, datetime
from itertools import permutations

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.core.errors import NeverFits
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import GUARD_S, SECOND, Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import (
    Dequeued,
    Granted,
    Queued,
    QuotaStore,
    Refused,
    Requeue,
    Reservation,
    ReservationRequest,
    Ticket,
)
from knowalledge.quota.redis import Gate, LocalUsage, RedisQuotaStore
from tests.contract.quota_stores import (
    KEYS,
    LEARNT,
    ONE,
    OPEN,
    RULES,
    WINDOWS,
    Make,
    Store,
    agree,
    join,
    not_joined,
    pump,
    redis_store,
    reserve,
    take,
)
from tests.support.decisions import assert_equal, granted, refused
from tests.support.doubles import ManualClock


def used(store: QuotaStore) -> list[int]:
    return [it.used for it in store.window_status("t")]


def test_grants_exactly_the_limit(make: Make) -> None:
    store = make(WINDOWS[0])
    granted = [isinstance(reserve(store, TokenCost(1, 1)), Granted) for _ in range(12)]
    assert granted == [True] * 10 + [False] * 2


def test_a_refusal_names_the_window_and_the_moment_at_which_it_has_room(
    make: Make, clock: ManualClock
) -> None:
    store = make(*WINDOWS[:2])
    take(store, TokenCost(900, 0))
    clock.sleep(20)
    refusal = refused(reserve(store, TokenCost(200, 0)))
    assert refusal.window == "tpm"
    clock.sleep(refusal.wait_s - 0.001)
    refused(reserve(store, TokenCost(200, 0)))
    clock.sleep(0.001)
    take(store, TokenCost(200, 0))


def test_settling_gives_back_what_was_not_used_and_charges_what_was(make: Make, clock: ManualClock) -> None:
    store = make(*WINDOWS[:2])
    reservation = take(store, TokenCost(100, 600))
    clock.sleep(30)
    store.settle(reservation, TokenCost(110, 20))
    assert used(store) == [1, 130]
    clock.sleep(31)
    assert used(store) == [0, 20]


def test_settling_twice_changes_nothing(make: Make) -> None:
    store = make(*WINDOWS[:2])
    reservation = take(store, TokenCost(100, 600))
    store.settle(reservation, TokenCost(100, 20))
    store.settle(reservation, TokenCost(100, 20))
    store.release(reservation)
    assert used(store) == [1, 120]


def test_output_is_kept_a_window_from_when_it_was_told_but_not_the_guard_longer(
    make: Make, clock: ManualClock
) -> None:
    store = make(WINDOWS[1])
    reservation = take(store, TokenCost(0, 600))
    clock.sleep(30)
    store.settle(reservation, TokenCost(0, 20))
    clock.sleep(60)
    assert used(store) == [20]
    clock.sleep(GUARD_S)
    assert used(store) == [0]


def test_releasing_leaves_nothing_behind(make: Make) -> None:
    store = make(*WINDOWS)
    store.release(take(store, TokenCost(100, 300)))
    assert used(store) == [0, 0, 0, 0]


def test_a_calendar_day_begins_anew_at_midnight_in_its_zone(make: Make, clock: ManualClock) -> None:
    store = make(Window("rpd", Count.REQUESTS, 1, 86_400, zone="America/Los_Angeles"))
    take(store, TokenCost(1, 1))
    refusal = refused(reserve(store, TokenCost(1, 1)))
    assert 0 < refusal.wait_s <= 86_400
    clock.sleep(refusal.wait_s)
    take(store, TokenCost(1, 1))


def test_a_gate_holds_for_its_time_and_a_shorter_one_does_not_open_it(make: Make, clock: ManualClock) -> None:
    store = make(*WINDOWS)
    store.close_gate("t", 33.0, "rpm")
    store.close_gate("t", 1.0, "rpm")
    assert refused(reserve(store, TokenCost(1, 1))).wait_s == pytest.approx(33.0)
    clock.sleep(33.0)
    take(store, TokenCost(1, 1))


@pytest.mark.parametrize("hours", [1, 100])
def test_a_clock_that_is_set_back_frees_nothing_early_and_closes_nothing_for_longer_than_a_window(
    make: Make, clock: ManualClock, hours: int
) -> None:
    store = make(WINDOWS[0], WINDOWS[3])
    running = [take(store, TokenCost(1, 1)) for _ in range(10)]
    clock.sleep(-hours * 3600)
    assert 50 < refused(reserve(store, TokenCost(1, 1))).wait_s < 61
    store.settle(running[0], TokenCost(1, 1))
    store.release(running[1])
    assert used(store) == [9, 9]
    clock.sleep(59)
    assert used(store) == [9, 9]
    clock.sleep(2)
    assert used(store) == [0, 9]
    for _ in range(10):
        take(store, TokenCost(1, 1))


def test_a_gate_ends_on_time_though_the_clock_is_set_back(make: Make, clock: ManualClock) -> None:
    store = make(WINDOWS[0])
    take(store, TokenCost(1, 1))
    store.close_gate("t", 30, "rpm")
    clock.sleep(10 - 3600)
    assert refused(reserve(store, TokenCost(1, 1))).wait_s == pytest.approx(
        30, abs=0.001
    )  # it is not known how much has passed
    clock.sleep(30.1)
    take(store, TokenCost(1, 1))


def test_what_can_never_fit_is_refused_for_good(make: Make) -> None:
    with pytest.raises(NeverFits):
        reserve(make(*WINDOWS), TokenCost(1001, 0))


def test_a_large_prediction_does_not_refuse_a_first_request(make: Make) -> None:
    take(make(*WINDOWS), TokenCost(900, 100_000))


def test_a_target_without_windows_is_unlimited(make: Make) -> None:
    store = make()
    for _ in range(50):
        store.settle(take(store, TokenCost(10**6, 10**6)), TokenCost(1, 1))
    assert store.window_status("t") == ()


def test_a_learnt_limit_is_probed_and_a_refusal_cuts_it_to_what_was_accepted(
    make: Make, clock: ManualClock
) -> None:
    store = make(LEARNT)
    kept: list[Reservation] = []
    while len(kept) < 9:  # one at a time, as an even pace has it
        decision = reserve(store, ONE)
        if isinstance(decision, Refused):
            clock.sleep(min(decision.wait_s, 1.0))  # it is tried again long before a place is free
        else:
            kept.append(granted(decision))
    assert store.window_status("t")[0].limit > 8
    store.release_rejected(kept[-1])
    assert store.window_status("t")[0].limit == 8
    assert refused(reserve(store, ONE)).reason is RefusalReason.QUOTA


def test_what_a_replica_had_learnt_is_kept_by_a_new_state_and_not_probed_at_once(
    redis_client: Redis, clock: ManualClock
) -> None:
    store = not_joined(redis_client, clock, LEARNT)
    store.join("t", lambda everything: LocalUsage(({},), (0,), (9,), (), ()), 0)
    count = 0
    for _ in range(30):
        count += isinstance(reserve(store, ONE), Granted)
        clock.sleep(1.0)
    # At its pace: two at once, then one in 60 s / 9.
    assert (count, store.window_status("t")[0].limit) == (6, 9)
    for _ in range(70):
        reserve(store, ONE)
        clock.sleep(1.0)
    assert store.window_status("t")[0].limit > 9


BROUGHT = (Gate(20 * SECOND, "rpm"), Gate(33 * SECOND, "rpd"), OPEN)


@pytest.mark.parametrize("order", list(permutations(BROUGHT)))
def test_of_the_gates_that_replicas_bring_to_an_empty_state_the_latest_stands_to_the_microsecond(
    empty: Redis, clock: ManualClock, order: tuple[Gate, ...]
) -> None:
    stores = [not_joined(empty, clock, *WINDOWS, replica=name) for name in "abc"]
    for store, gate in zip(stores, order, strict=True):
        join(store, WINDOWS, gate)
    for store in stores:
        refusal = refused(reserve(store, ONE))
        assert (refusal.wait_s, refusal.window) == (33.0, "rpd")
        assert store.beat("t").gate == Gate(33 * SECOND, "rpd")
    clock.sleep(32.999)
    refused(reserve(stores[0], ONE))
    clock.sleep(0.001)
    take(stores[0], ONE)
    assert stores[0].beat("t").gate == OPEN


def test_a_gate_that_is_brought_later_is_counted_from_then_and_does_not_add_up(
    empty: Redis, clock: ManualClock
) -> None:
    early, late = (not_joined(empty, clock, *WINDOWS, replica=name) for name in "ab")
    join(early, WINDOWS, Gate(33 * SECOND, "rpm"))
    clock.sleep(5)
    join(late, WINDOWS, Gate(28 * SECOND, "rpm"))
    assert refused(reserve(early, ONE)).wait_s == 28.0


@pytest.mark.parametrize(
    ("brought", "waits_s", "window", "told"),
    [
        (Gate(SECOND, "rpm"), 2.5, "", OPEN),
        (Gate(9 * SECOND, "rpm"), 9.0, "rpm", Gate(9 * SECOND, "rpm")),
        (Gate(9 * SECOND), 9.0, "", Gate(9 * SECOND)),  # a provider need not name a window
    ],
)
def test_the_pause_of_a_join_and_a_gate_do_not_shorten_each_other_and_the_pause_is_no_word_of_the_provider(
    empty: Redis, clock: ManualClock, brought: Gate, waits_s: float, window: str, told: Gate
) -> None:
    store = not_joined(empty, clock, *WINDOWS)
    join(store, WINDOWS, brought, pause_s=2.5)
    refusal = refused(reserve(store, ONE))
    assert (refusal.wait_s, refusal.window) == (waits_s, window)
    assert store.beat("t").gate == told


# Two minutes before the days on which the clocks of WINDOWS' zone change, which have 25 and 23 hours.
AUTUMN = datetime(2026, 11, 1, 6, 58, tzinfo=UTC).timestamp()
SPRING = datetime(2027, 3, 14, 7, 58, tzinfo=UTC).timestamp()

Step = tuple[str, int, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(
            [
                "ask",
                "ask",
                "ask",
                "enter",
                "enter",
                "settle",
                "release",
                "refused",
                "wait",
                "gate",
                "leave",
                "back",
            ]
        ),
        st.integers(0, 400),
        st.integers(0, 300),
        st.integers(0, 90_000),
        st.integers(0, 11),
    ),
    max_size=50,
)


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    history=steps,
    windows=st.sampled_from([WINDOWS, WINDOWS[:3], (LEARNT, WINDOWS[1])]),
    start=st.sampled_from([1_790_000_000.0, AUTUMN, SPRING]),
)
def test_the_scripts_and_the_arithmetic_agree_step_by_step(
    history: list[Step], windows: tuple[Window, ...], start: float, redis_client: Redis
) -> None:
    redis_client.flushdb()
    clock = ManualClock()
    clock.time = start
    pair: tuple[Store, Store] = (
        MemoryQuotaStore({"t": windows}, RULES, clock, pumps=False),
        redis_store(redis_client, clock, *windows),
    )
    live: list[tuple[Reservation, Reservation]] = []
    waiting: list[tuple[Ticket, Ticket]] = []
    # Both have seen the moment at which it begins.
    assert pair[0].window_status("t") == pair[1].window_status("t")
    for number, (kind, first, second, milliseconds, who) in enumerate(history):
        if kind == "wait":
            clock.sleep(milliseconds / 1000)
        elif kind == "back":
            # Around midnight the two may tell the end of different days.
            clock.sleep(0 if windows[-1].calendar else -milliseconds / 150)
        elif kind == "gate":
            for store in pair:
                store.close_gate("t", milliseconds / 10_000, "rpm")
        elif kind in ("ask", "enter"):
            patience = 0.0 if kind == "ask" else milliseconds / 1000
            request = ReservationRequest(
                f"{number:04}",
                TokenCost(first + 1, second),
                Priority(who % 4),
                ("", "light", "heavy")[who // 4],
                patience,
            )
            one, other = (store.reserve("t", request) for store in pair)
            assert_equal(one, other)
            if isinstance(one, Granted) and isinstance(other, Granted):
                live.append((one.reservation, other.reservation))
            if isinstance(one, Queued) and isinstance(other, Queued):
                waiting.append((one.ticket, other.ticket))
        elif kind == "leave" and waiting:
            for ticket in waiting.pop(first % len(waiting)):
                ticket.leave(QueueOutcome.CANCELLED)
        elif live:
            for store, reservation in zip(pair, live.pop(first % len(live)), strict=True):
                if kind == "settle":
                    store.settle(reservation, TokenCost(first, second * 2))
                elif kind == "release":
                    store.release(reservation)
                else:
                    store.release_rejected(reservation)
        assert pump(pair[0]) == pytest.approx(pump(pair[1]), abs=1e-5)
        for tickets in list(waiting):
            mine, theirs = (ticket.wait(0) for ticket in tickets)
            # Nobody listens here for the message that a place was shed; the heartbeat finds only that it is gone.
            assert type(mine) is type(theirs) or (mine, theirs) == (Dequeued(QueueOutcome.SHED), Requeue())
            if isinstance(mine, Granted) and isinstance(theirs, Granted):
                live.append((mine.reservation, theirs.reservation))
            if mine is not None:
                waiting.remove(tickets)
        agree(*pair)


learning = st.lists(
    st.tuples(
        st.sampled_from(["ask", "ask", "ask", "fill", "fill", "first", "last", "settle"]),
        st.sampled_from([0.0, 0.1, 0.4, 1.0, 2.5, 3.0, 19.5, 55.0]),
    ),
    min_size=10,
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@example(history=[("fill", 1.0)] * 3 + [("last", 0.1)] + [("first", 0.1)] * 3, level=Priority.HIGH)
@given(history=learning, level=st.sampled_from([Priority.HIGH, Priority.LOW]))
def test_the_scripts_and_the_arithmetic_learn_the_same(
    history: list[tuple[str, float]], level: Priority, redis_client: Redis
) -> None:
    redis_client.flushdb()
    clock = ManualClock()
    pair: tuple[Store, Store] = (
        MemoryQuotaStore({"t": (LEARNT,)}, RULES, clock, pumps=False),
        redis_store(redis_client, clock, LEARNT),
    )
    live: list[tuple[Reservation, Reservation]] = []

    def asked() -> bool:
        request = ReservationRequest(f"{next(KEYS):06}", ONE, level, "", 0.0)
        one, other = (store.reserve("t", request) for store in pair)
        assert_equal(one, other)
        if isinstance(one, Granted) and isinstance(other, Granted):
            live.append((one.reservation, other.reservation))
        return isinstance(one, Granted)

    for kind, seconds in history:
        clock.sleep(seconds)
        if kind == "ask":
            asked()
        elif kind == "fill":  # as fast as the pace allows, for a moment
            for _ in range(20):
                if not asked():
                    clock.sleep(0.25)
        elif live:
            for store, reservation in zip(pair, live.pop(-1 if kind == "last" else 0), strict=True):
                if kind == "settle":
                    store.settle(reservation, ONE)
                else:
                    store.release_rejected(reservation)
        assert pair[0].window_status("t") == pair[1].window_status("t")


@pytest.mark.parametrize("hours", [0, 1])
def test_the_lease_of_a_dead_replica_ends_on_time_though_the_clock_is_set_back(
    hours: int, redis_client: Redis, clock: ManualClock
) -> None:
    dead = redis_store(redis_client, clock, WINDOWS[1])
    take(dead, TokenCost(100, 300))
    dead.beat("t")
    living = RedisQuotaStore(
        redis_client, {"t": WINDOWS[1:2]}, RULES, clock, "b", moment=lambda: str(int(clock.now() * SECOND))
    )
    living.join("t", lambda _: LocalUsage(({},), (0,), (1000,), (), ()), 0)
    clock.sleep(1 - hours * 3600)
    assert living.beat("t").alive == 2
    clock.sleep(5)
    pulse = living.beat("t")
    assert (pulse.alive, [(it.used, it.held) for it in pulse.window_status]) == (1, [(400, 0)])
