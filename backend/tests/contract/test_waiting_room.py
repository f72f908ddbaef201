"""One suite over the waiting rooms of both quota stores: whose turn it is, who is shed, what is told of it."""

import pytest

from knowalledge.core.context import Priority
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import AGED_EVERY, QueueOutcome
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.ports import Dequeued, Granted, Reservation, Ticket
from knowalledge.quota.redis import RedisQuotaStore
from tests.contract.quota_stores import ONE, WINDOWS, Make, Store, pump, reserve, take
from tests.support.decisions import queued, refused
from tests.support.doubles import ManualClock


def enter(store: Store, level: Priority = Priority.HIGH, patience: float = 1000, tenant: str = "") -> Ticket:
    return queued(reserve(store, ONE, level, patience, tenant))


def full(make: Make, limit: int = 2) -> tuple[Store, list[Reservation]]:
    """A store whose only window is full."""
    store = make(Window("rpm", Count.REQUESTS, limit, 60))
    return store, [take(store, ONE) for _ in range(limit)]


def granted(ticket: Ticket) -> bool:
    return isinstance(ticket.wait(0), Granted)


def test_one_who_waits_is_told_its_place_and_granted_when_its_turn_comes(
    make: Make, clock: ManualClock
) -> None:
    store, _ = full(make)
    first, second = enter(store), enter(store)
    assert (first.position, second.position) == (1, 2)
    assert 60 <= first.eta_s <= 61
    wait = pump(store)
    clock.sleep(wait - 0.001)
    pump(store)
    assert not granted(first)
    clock.sleep(0.002)
    pump(store)
    assert granted(first)
    assert granted(second)


def test_room_that_comes_back_goes_to_those_who_wait_and_not_to_a_newcomer(make: Make) -> None:
    store, held = full(make)
    ticket = enter(store)
    store.release(held[0])
    pump(store)
    assert granted(ticket)
    assert refused(reserve(store, ONE)).reason is RefusalReason.QUOTA


def test_the_more_urgent_goes_first_and_a_tenants_own_in_order(make: Make, clock: ManualClock) -> None:
    store, _ = full(make, 1)
    low = enter(store, Priority.LOW)
    high, later = enter(store, Priority.HIGH), enter(store, Priority.HIGH)
    order = []
    for _ in range(3):
        clock.sleep(61)
        pump(store)
        order.append([granted(it) for it in (high, later, low)])
    assert order == [[True, False, False], [True, True, False], [True, True, True]]


def test_tenants_take_turns_by_what_they_were_served(make: Make, clock: ManualClock) -> None:
    store, _ = full(make, 1)
    greedy = [enter(store, tenant="a") for _ in range(2)]
    modest = enter(store, tenant="b")
    clock.sleep(61)
    pump(store)
    clock.sleep(61)
    pump(store)
    assert [granted(it) for it in (*greedy, modest)] == [True, False, True]


def test_a_full_room_sheds_the_newest_of_the_lowest_level_below_the_newcomer(make: Make) -> None:
    store, _ = full(make)
    enter(store, Priority.MEDIUM)
    old, new = enter(store, Priority.LOW), enter(store, Priority.LOW)
    enter(store, Priority.CRITICAL)
    if isinstance(store, RedisQuotaStore):
        store.heartbeat("t")
    assert new.wait(0) is not None
    assert old.wait(0) is None


def test_a_full_room_refuses_a_newcomer_that_is_below_everybody(make: Make) -> None:
    store, _ = full(make)
    for _ in range(3):
        enter(store, Priority.MEDIUM)
    refusal = refused(reserve(store, ONE, Priority.LOW, 1000))
    assert refusal.reason is RefusalReason.FULL
    assert refusal.wait_s > 0


def test_a_room_full_of_one_tenant_makes_room_for_another_until_both_have_as_much(make: Make) -> None:
    store, _ = full(make)
    old, _, new = [enter(store, tenant="a") for _ in range(3)]
    enter(store, tenant="b")
    if isinstance(store, RedisQuotaStore):
        store.heartbeat("t")
    assert new.wait(0) is not None
    assert old.wait(0) is None
    for tenant in ("b", "a"):
        assert refused(reserve(store, ONE, tenant=tenant, patience=1000)).reason is RefusalReason.FULL
    enter(store, tenant="heavy")  # its weight is 2: two places count as one
    assert refused(reserve(store, ONE, tenant="a", patience=1000)).reason is RefusalReason.FULL


def test_a_deadline_is_judged_by_the_turns_that_tenants_take(make: Make) -> None:
    store, _ = full(make, 1)
    for _ in range(2):
        enter(store, tenant="a")
    assert (
        refused(reserve(store, ONE, tenant="a", patience=150)).reason is RefusalReason.DEADLINE
    )  # its turn would be the third
    queued(reserve(store, ONE, tenant="b", patience=150))  # and this one's the second


def test_one_whose_turn_comes_after_its_deadline_is_refused_at_once(make: Make) -> None:
    store, _ = full(make)
    refusal = refused(reserve(store, ONE, patience=5.0))
    assert refusal.reason is RefusalReason.DEADLINE
    assert 60 <= refusal.wait_s <= 61


def test_the_time_to_a_turn_counts_on_what_answers_give_back(make: Make, clock: ManualClock) -> None:
    store = make(WINDOWS[1])
    for _ in range(20):
        store.settle(take(store, TokenCost(10, 40)), TokenCost(10, 10))
    clock.sleep(10)
    for _ in range(4):
        take(store, TokenCost(10, 100))
    # 840 of 1000 are spent, but of the 400 that are held 300 will come back, and 82 of each 110 after that.
    waits = [queued(reserve(store, TokenCost(110, 110), patience=1000)).eta_s for _ in range(3)]
    assert waits[:2] == pytest.approx([1.0, 1.0])
    assert 50 <= waits[2] <= 51


def test_those_before_it_in_a_paced_level_are_paced_too(make: Make) -> None:
    store = make(Window("tpm", Count.TOKENS, 6000, 60))
    assert isinstance(reserve(store, TokenCost(600, 0), Priority.LOW), Granted)
    waits = [queued(reserve(store, TokenCost(300, 0), Priority.LOW, 1000)).eta_s for _ in range(3)]
    assert waits == pytest.approx([3.0, 6.0, 9.0], abs=0.01)


def test_leaving_makes_room_for_the_next_and_is_counted(make: Make) -> None:
    store, _ = full(make)
    first, second = enter(store), enter(store)
    assert first.leave(QueueOutcome.CANCELLED)
    assert not first.leave(QueueOutcome.TIMED_OUT)
    high = store.queue_stats("t")[Priority.HIGH]
    assert (high.waiting, high.left) == (1, {QueueOutcome.CANCELLED: 1})
    assert second.wait(0) is None


def test_an_aged_waiter_of_a_low_level_is_served_though_the_high_keep_coming(
    make: Make, clock: ManualClock
) -> None:
    store, _ = full(make, 1)
    low = enter(store, Priority.LOW)
    for _ in range(30):
        high = enter(store, Priority.HIGH)
        clock.sleep(61)
        pump(store)
        if granted(low):
            break
        assert granted(high)
    assert granted(low)


def test_where_the_low_were_served_in_their_turn_the_high_lose_none_of_theirs_to_an_aged_one(
    make: Make, clock: ManualClock
) -> None:
    store, _ = full(make, 1)
    low, aged = enter(store, Priority.LOW), enter(store, Priority.LOW)

    def high_comes(times: int) -> None:
        for _ in range(times):
            high = enter(store, Priority.HIGH)
            clock.sleep(61)
            pump(store)
            assert granted(high)

    high_comes(12)
    clock.sleep(61)
    pump(store)
    assert granted(low)
    high_comes(AGED_EVERY - 1)
    last = enter(store, Priority.HIGH)
    clock.sleep(61)
    pump(store)
    assert granted(aged)
    assert not granted(last)


def test_stats_tell_who_waits_since_when_and_how_long_a_newcomer_would(
    make: Make, clock: ManualClock
) -> None:
    store, _ = full(make)
    enter(store, tenant="a")
    clock.sleep(2)
    enter(store, tenant="b")
    depth = store.queue_stats("t")[Priority.HIGH]
    assert (depth.waiting, depth.oldest_s) == (2, 2.0)
    assert {name: (it.waiting, it.oldest_s) for name, it in depth.tenants.items()} == {
        "a": (1, 2.0),
        "b": (1, 0.0),
    }
    assert depth.eta_s > 58


def test_stats_tell_by_tenant_who_waits_how_long_a_newcomer_would_and_how_others_left(
    make: Make, clock: ManualClock
) -> None:
    store, _ = full(make)
    for _ in range(3):
        enter(store, tenant="many")
    few = enter(store, tenant="few")  # into a full room: one of the many is shed
    clock.sleep(3)
    few.leave(QueueOutcome.TIMED_OUT)
    depth = store.queue_stats("t")[Priority.HIGH]
    many, gone = depth.tenants["many"], depth.tenants["few"]
    assert (many.waiting, many.oldest_s, many.left) == (2, 3.0, {QueueOutcome.SHED: 1})
    assert (gone.waiting, gone.oldest_s, gone.left) == (0, 0.0, {QueueOutcome.TIMED_OUT: 1})
    # Both of its own go before one of the first tenant; one of the other takes turns with them.
    assert many.eta_s == depth.eta_s
    assert gone.eta_s == pytest.approx(depth.eta_s / 2)


def test_shutting_down_hands_every_place_back(make: Make) -> None:
    store, _ = full(make)
    tickets = [enter(store), enter(store)]
    store.shut_down()
    assert [it.wait(0) for it in tickets] == [Dequeued(QueueOutcome.SHUTTING_DOWN)] * 2
    assert store.queue_stats("t")[Priority.HIGH].waiting == 0
