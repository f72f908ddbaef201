"""One suite over both quota stores, and the two held against each other step by step under one clock."""

from itertools import permutations

import pytest
from redis import Redis

from knowalledge.core.errors import NeverFits
from knowalledge.quota.commands import Gate, LocalUsage
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.window import GUARD_S, SECOND, Count, TokenCost, Window
from knowalledge.quota.ports import (
    Granted,
    QuotaStore,
    Refused,
    Reservation,
)
from tests.contract.quota_stores import (
    LEARNT,
    ONE,
    OPEN,
    WINDOWS,
    Make,
    join,
    not_joined,
    reserve,
    take,
)
from tests.support.decisions import granted, refused
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
        assert store.heartbeat("t").gate == Gate(33 * SECOND, "rpd")
    clock.sleep(32.999)
    refused(reserve(stores[0], ONE))
    clock.sleep(0.001)
    take(stores[0], ONE)
    assert stores[0].heartbeat("t").gate == OPEN


def test_a_gate_that_is_brought_later_is_counted_from_then_and_does_not_add_up(
    empty: Redis, clock: ManualClock
) -> None:
    early, late = (not_joined(empty, clock, *WINDOWS, replica=name) for name in "ab")
    join(early, WINDOWS, Gate(33 * SECOND, "rpm"))
    clock.sleep(5)
    join(late, WINDOWS, Gate(28 * SECOND, "rpm"))
    assert refused(reserve(early, ONE)).wait_s == 28.0


@pytest.mark.parametrize(
    ("brought", "waits_s", "window", "reported"),
    [
        (Gate(SECOND, "rpm"), 2.5, "", OPEN),
        (Gate(9 * SECOND, "rpm"), 9.0, "rpm", Gate(9 * SECOND, "rpm")),
        (Gate(9 * SECOND), 9.0, "", Gate(9 * SECOND)),  # a provider need not name a window
    ],
)
def test_the_pause_of_a_join_and_a_gate_do_not_shorten_each_other_and_the_pause_is_no_word_of_the_provider(
    empty: Redis, clock: ManualClock, brought: Gate, waits_s: float, window: str, reported: Gate
) -> None:
    store = not_joined(empty, clock, *WINDOWS)
    join(store, WINDOWS, brought, pause_s=2.5)
    refusal = refused(reserve(store, ONE))
    assert (refusal.wait_s, refusal.window) == (waits_s, window)
    assert store.heartbeat("t").gate == reported
