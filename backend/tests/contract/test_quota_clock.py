"""Both quota stores under a clock that steps back: nothing is freed early, nobody loses a place."""

import pytest
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.quota.commands import LocalUsage
from knowalledge.quota.domain.queue import AGED_EVERY
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.ports import Granted, QuotaStore, Ticket
from knowalledge.quota.redis import RedisQuotaStore
from tests.contract.quota_stores import ONE, RULES, WINDOWS, Make, Store, pump, redis_store, reserve, take
from tests.support.decisions import granted, queued, refused
from tests.support.doubles import ManualClock

HOUR = 3600


def used(store: QuotaStore) -> list[int]:
    return [window.used for window in store.window_status("t")]


def enter(store: Store, level: Priority = Priority.HIGH) -> Ticket:
    return queued(reserve(store, ONE, level, 10_000))


def was_granted(ticket: Ticket) -> bool:
    return isinstance(ticket.wait(0), Granted)


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


@pytest.mark.parametrize("hours", [0, 1])
def test_the_lease_of_a_dead_replica_ends_on_time_though_the_clock_is_set_back(
    hours: int, redis_client: Redis, clock: ManualClock
) -> None:
    dead = redis_store(redis_client, clock, WINDOWS[1])
    take(dead, TokenCost(100, 300))
    dead.heartbeat("t")
    living = RedisQuotaStore(
        redis_client, {"t": WINDOWS[1:2]}, RULES, clock, "b", redis_now=lambda: str(int(clock.now() * SECOND))
    )
    living.join("t", lambda _: LocalUsage(({},), (0,), (1000,), (), ()), 0)
    clock.sleep(1 - hours * 3600)
    assert living.heartbeat("t").replicas == 2
    clock.sleep(5)
    pulse = living.heartbeat("t")
    assert (pulse.replicas, [(it.used, it.held) for it in pulse.window_status]) == (1, [(400, 0)])


def test_a_gate_holds_though_it_is_the_first_that_is_heard_after_the_clock_was_set_back(
    make: Make, clock: ManualClock
) -> None:
    store = make(WINDOWS[0])
    take(store, ONE)
    clock.sleep(-HOUR)
    store.close_gate("t", 30, "rpm")
    refusal = refused(reserve(store, ONE))
    assert (refusal.window, refusal.wait_s) == ("rpm", 30.0)


def test_what_ends_after_the_clock_was_set_back_gives_back_what_it_was_charged_and_no_more(
    make: Make, clock: ManualClock
) -> None:
    store = make(WINDOWS[1])
    before = take(store, TokenCost(100, 0))
    clock.sleep(-HOUR)
    take(store, TokenCost(300, 0))
    clock.sleep(30)
    take(store, TokenCost(200, 0))
    store.release(before)
    assert used(store) == [500]
    clock.sleep(31)  # what was charged before, and when the clock was set back, is out
    assert used(store) == [200]


def test_what_was_out_of_the_window_before_the_clock_was_set_back_gives_back_nothing(
    make: Make, clock: ManualClock
) -> None:
    store = make(WINDOWS[1], Window("rpd", Count.REQUESTS, 60, 86_400, zone="America/Los_Angeles"))
    yesterday = take(store, TokenCost(100, 0))
    clock.sleep(24 * HOUR)
    take(store, TokenCost(300, 0))
    clock.sleep(-24 * HOUR)
    store.release(yesterday)
    assert used(store) == [300, 1]


@pytest.mark.parametrize("back", [20, 299, HOUR])
def test_those_who_wait_keep_their_places_though_the_clock_steps_back(
    make: Make, clock: ManualClock, back: int
) -> None:
    store = make(Window("rpm", Count.REQUESTS, 1, 60))
    take(store, ONE)
    elder = enter(store)
    clock.sleep(-back)
    younger = enter(store)
    order = []
    for _ in range(2):
        clock.sleep(pump(store))
        pump(store)
        order.append((was_granted(elder), was_granted(younger)))
    assert order == [(True, False), (True, True)]


def test_nobody_has_waited_for_less_than_no_time(make: Make, clock: ManualClock) -> None:
    store = make(Window("rpm", Count.REQUESTS, 1, 60))
    take(store, ONE)
    enter(store)
    clock.sleep(7)
    for back, waited in ((20, 7), (HOUR, 7)):
        store.window_status("t")
        clock.sleep(-back)
        depth = store.queue_stats("t")[Priority.HIGH]
        assert (depth.oldest_s, depth.tenants[""].oldest_s) == (waited, waited)


def test_the_aged_are_served_in_time_though_the_clock_was_set_back_while_they_waited(
    make: Make, clock: ManualClock
) -> None:
    store = make(Window("rpm", Count.REQUESTS, 100, 60))
    held = [take(store, ONE) for _ in range(100)]
    aged, _ = enter(store, Priority.MEDIUM), enter(store, Priority.LOW)
    clock.sleep(3)
    store.window_status("t")
    clock.sleep(-HOUR)
    store.window_status("t")
    clock.sleep(2)  # five seconds in all, after which one is aged
    grants = 0
    while not was_granted(aged):
        enter(store, Priority.HIGH)
        store.release(held.pop())
        pump(store)
        grants += 1
    assert grants == AGED_EVERY


def test_a_paced_wait_is_told_with_the_time_for_which_a_clock_that_stepped_back_stands_still(
    make: Make, clock: ManualClock
) -> None:
    store = make(WINDOWS[0])
    granted(reserve(store, ONE, Priority.LOW))
    wait = refused(reserve(store, ONE, Priority.LOW)).wait_s
    clock.sleep(-20)
    refusal = refused(reserve(store, ONE, Priority.LOW))
    assert refusal.wait_s == pytest.approx(wait + 20, abs=1e-5)
    clock.sleep(refusal.wait_s)
    granted(reserve(store, ONE, Priority.LOW))
