"""One suite over both quota stores, and the two held against each other step by step under one clock."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import count

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from redis import Redis

from knowalledge.adapters.memory.quota_store import MemoryQuotaStore
from knowalledge.adapters.redis.connection import client, one_node
from knowalledge.adapters.redis.quota_store import RedisQuotaStore, Spent
from knowalledge.domain.admission import Ending, Refusal, Rules
from knowalledge.domain.errors import NeverFits
from knowalledge.domain.model import Priority
from knowalledge.domain.ports import AskAgain, Asking, Decision, QuotaStore, Reservation, Ticket
from knowalledge.domain.quota import SECOND, Count, Lane, Need, Window
from tests.fakes import Hands
from tests.redis_kinds import as_cluster, behind_sentinel, until_well

WINDOWS = (
    Window("rpm", Count.REQUESTS, 10, 60),
    Window("tpm", Count.TOKENS, 1000, 60),
    Window("otpm", Count.OUTPUT, 700, 7),
    Window("rpd", Count.REQUESTS, 60, 86_400, zone="America/Los_Angeles"),
)
LEARNT = Window("learnt", Count.REQUESTS, 4, 60, learn=True)
RULES = Rules(capacity=3, aging_s=5.0, weights={"heavy": 2.0}, lanes={Priority.LOW: Lane(0.9, 0.1)})


def redis_store(client: Redis, clock: Hands, *windows: Window, rules: Rules = RULES) -> RedisQuotaStore:
    """The Redis store under the test's clock instead of Redis' own."""
    store = RedisQuotaStore(
        client, {"t": windows}, rules, clock, "a", moment=lambda: str(int(clock.now() * SECOND)), pumps=False
    )
    if windows:
        store.join(
            "t",
            lambda everything: Spent(
                ({},) * len(windows), (0,) * len(windows), tuple(it.limit for it in windows), (), ()
            ),
            0,
        )
    return store


Store = MemoryQuotaStore | RedisQuotaStore
Make = Callable[..., Store]


@pytest.fixture(scope="module")
def sentinel_client(tmp_path_factory: pytest.TempPathFactory, redis_port: int) -> Iterator[Redis]:
    with (
        behind_sentinel(tmp_path_factory.mktemp("sentinel"), redis_port) as url,
        client(url, 5.0, 10) as redis,
    ):
        until_well(redis)
        yield redis


@pytest.fixture(scope="module")
def cluster_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with as_cluster(tmp_path_factory.mktemp("cluster")) as url, client(url, 5.0, 10) as redis:
        until_well(redis)
        yield redis


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
def make(request: pytest.FixtureRequest, clock: Hands) -> Make:
    """Both adapters, and the one over Redis wherever Redis may be."""
    if request.param == "memory":
        return lambda *windows: MemoryQuotaStore({"t": windows}, RULES, clock, pumps=False)
    redis: Redis = request.getfixturevalue(f"{request.param}_client")
    one_node(redis).flushall()
    return lambda *windows: redis_store(redis, clock, *windows)


KEYS = count()


def ask(
    store: QuotaStore,
    need: Need,
    level: Priority = Priority.HIGH,
    patience: float = 0.0,
    tenant: str = "",
) -> Decision:
    return store.ask("t", Asking(f"{next(KEYS):06}", need, level, tenant, patience))


def take(store: QuotaStore, need: Need) -> Reservation:
    decision = ask(store, need)
    assert decision.reservation is not None
    return decision.reservation


def used(store: QuotaStore) -> list[int]:
    return [level.used for level in store.levels("t")]


def test_grants_exactly_the_limit(make: Make) -> None:
    store = make(WINDOWS[0])
    granted = [ask(store, Need(1, 1)).reservation is not None for _ in range(12)]
    assert granted == [True] * 10 + [False] * 2


def test_a_refusal_names_the_window_and_the_moment_at_which_it_has_room(make: Make, clock: Hands) -> None:
    store = make(*WINDOWS[:2])
    take(store, Need(900, 0))
    clock.sleep(20)
    refused = ask(store, Need(200, 0))
    assert (refused.reservation, refused.window) == (None, "tpm")
    clock.sleep(refused.wait_s - 0.001)
    assert ask(store, Need(200, 0)).reservation is None
    clock.sleep(0.001)
    take(store, Need(200, 0))


def test_settling_gives_back_what_was_not_used_and_charges_what_was(make: Make, clock: Hands) -> None:
    store = make(*WINDOWS[:2])
    reservation = take(store, Need(100, 600))
    clock.sleep(30)
    store.settle(reservation, Need(110, 20))
    assert used(store) == [1, 130]
    clock.sleep(31)
    assert used(store) == [0, 20]


def test_settling_twice_changes_nothing(make: Make) -> None:
    store = make(*WINDOWS[:2])
    reservation = take(store, Need(100, 600))
    store.settle(reservation, Need(100, 20))
    store.settle(reservation, Need(100, 20))
    store.release(reservation)
    assert used(store) == [1, 120]


def test_releasing_leaves_nothing_behind(make: Make) -> None:
    store = make(*WINDOWS)
    store.release(take(store, Need(100, 300)))
    assert used(store) == [0, 0, 0, 0]


def test_a_calendar_day_begins_anew_at_midnight_in_its_zone(make: Make, clock: Hands) -> None:
    store = make(Window("rpd", Count.REQUESTS, 1, 86_400, zone="America/Los_Angeles"))
    take(store, Need(1, 1))
    refused = ask(store, Need(1, 1))
    assert 0 < refused.wait_s <= 86_400
    clock.sleep(refused.wait_s)
    take(store, Need(1, 1))


def test_a_gate_holds_for_its_time_and_a_shorter_one_does_not_open_it(make: Make, clock: Hands) -> None:
    store = make(*WINDOWS)
    store.close_until("t", 33.0, "rpm")
    store.close_until("t", 1.0, "rpm")
    assert ask(store, Need(1, 1)).wait_s == pytest.approx(33.0)
    clock.sleep(33.0)
    take(store, Need(1, 1))


@pytest.mark.parametrize("hours", [1, 100])
def test_a_clock_that_is_set_back_frees_nothing_early_and_closes_nothing_for_longer_than_a_window(
    make: Make, clock: Hands, hours: int
) -> None:
    store = make(WINDOWS[0], WINDOWS[3])
    running = [take(store, Need(1, 1)) for _ in range(10)]
    clock.sleep(-hours * 3600)
    assert 50 < ask(store, Need(1, 1)).wait_s < 61
    store.settle(running[0], Need(1, 1))
    store.release(running[1])
    assert used(store) == [9, 9]
    clock.sleep(59)
    assert used(store) == [9, 9]
    clock.sleep(2)
    assert used(store) == [0, 9]
    for _ in range(10):
        take(store, Need(1, 1))


def test_a_gate_ends_on_time_though_the_clock_is_set_back(make: Make, clock: Hands) -> None:
    store = make(WINDOWS[0])
    take(store, Need(1, 1))
    store.close_until("t", 30, "rpm")
    clock.sleep(10 - 3600)
    assert ask(store, Need(1, 1)).wait_s == pytest.approx(
        30, abs=0.001
    )  # it is not known how much has passed
    clock.sleep(30.1)
    take(store, Need(1, 1))


def test_what_can_never_fit_is_refused_for_good(make: Make) -> None:
    with pytest.raises(NeverFits):
        ask(make(*WINDOWS), Need(1001, 0))


def test_a_large_prediction_does_not_refuse_a_first_request(make: Make) -> None:
    take(make(*WINDOWS), Need(900, 100_000))


def test_a_target_without_windows_is_unlimited(make: Make) -> None:
    store = make()
    for _ in range(50):
        store.settle(take(store, Need(10**6, 10**6)), Need(1, 1))
    assert store.levels("t") == ()


ONE = Need(1, 0)


def enter(store: Store, level: Priority = Priority.HIGH, patience: float = 1000, tenant: str = "") -> Ticket:
    decision = ask(store, ONE, level, patience, tenant)
    assert decision.ticket is not None
    return decision.ticket


def full(make: Make, limit: int = 2) -> tuple[Store, list[Reservation]]:
    """A store whose only window is full."""
    store = make(Window("rpm", Count.REQUESTS, limit, 60))
    return store, [take(store, ONE) for _ in range(limit)]


def pump(store: Store) -> float:
    """What the store's own greenlets do when their time comes."""
    wait = store.dispatch("t")
    if isinstance(store, RedisQuotaStore):
        store.beat("t")  # finds the grants whose messages nobody listens for in these tests
    return wait


def granted(ticket: Ticket) -> bool:
    result = ticket.wait(0)
    return isinstance(result, Decision) and result.reservation is not None


def test_one_who_waits_is_told_its_place_and_granted_when_its_turn_comes(make: Make, clock: Hands) -> None:
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
    assert ask(store, ONE).refusal is Refusal.QUOTA


def test_the_more_urgent_goes_first_and_a_tenants_own_in_order(make: Make, clock: Hands) -> None:
    store, _ = full(make, 1)
    low = enter(store, Priority.LOW)
    high, later = enter(store, Priority.HIGH), enter(store, Priority.HIGH)
    order = []
    for _ in range(3):
        clock.sleep(61)
        pump(store)
        order.append([granted(it) for it in (high, later, low)])
    assert order == [[True, False, False], [True, True, False], [True, True, True]]


def test_tenants_take_turns_by_what_they_were_served(make: Make, clock: Hands) -> None:
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
        store.beat("t")
    assert new.wait(0) is not None
    assert old.wait(0) is None


def test_a_full_room_refuses_a_newcomer_that_is_below_everybody(make: Make) -> None:
    store, _ = full(make)
    for _ in range(3):
        enter(store, Priority.MEDIUM)
    refused = ask(store, ONE, Priority.LOW, 1000)
    assert refused.refusal is Refusal.FULL
    assert refused.wait_s > 0


def test_a_room_full_of_one_tenant_makes_room_for_another_until_both_have_as_much(make: Make) -> None:
    store, _ = full(make)
    old, _, new = [enter(store, tenant="a") for _ in range(3)]
    enter(store, tenant="b")
    if isinstance(store, RedisQuotaStore):
        store.beat("t")
    assert new.wait(0) is not None
    assert old.wait(0) is None
    for tenant in ("b", "a"):
        assert ask(store, ONE, tenant=tenant, patience=1000).refusal is Refusal.FULL
    enter(store, tenant="heavy")  # its weight is 2: two places count as one
    assert ask(store, ONE, tenant="a", patience=1000).refusal is Refusal.FULL


def test_a_deadline_is_judged_by_the_turns_that_tenants_take(make: Make) -> None:
    store, _ = full(make, 1)
    for _ in range(2):
        enter(store, tenant="a")
    assert (
        ask(store, ONE, tenant="a", patience=150).refusal is Refusal.DEADLINE
    )  # its turn would be the third
    assert ask(store, ONE, tenant="b", patience=150).ticket is not None  # and this one's the second


def test_one_whose_turn_comes_after_its_deadline_is_refused_at_once(make: Make) -> None:
    store, _ = full(make)
    refused = ask(store, ONE, patience=5.0)
    assert refused.refusal is Refusal.DEADLINE
    assert 60 <= refused.wait_s <= 61


def test_the_time_to_a_turn_counts_on_what_answers_give_back(make: Make, clock: Hands) -> None:
    store = make(WINDOWS[1])
    for _ in range(20):
        store.settle(take(store, Need(10, 40)), Need(10, 10))
    clock.sleep(10)
    for _ in range(4):
        take(store, Need(10, 100))
    # 840 of 1000 are spent, but of the 400 that are held 300 will come back, and 82 of each 110 after that.
    waits = [ask(store, Need(110, 110), patience=1000).wait_s for _ in range(3)]
    assert waits[:2] == pytest.approx([1.0, 1.0])
    assert 50 <= waits[2] <= 51


def test_those_before_it_in_a_paced_level_are_paced_too(make: Make) -> None:
    store = make(Window("tpm", Count.TOKENS, 6000, 60))
    assert ask(store, Need(600, 0), Priority.LOW).reservation is not None
    waits = [ask(store, Need(300, 0), Priority.LOW, 1000).wait_s for _ in range(3)]
    assert waits == pytest.approx([3.0, 6.0, 9.0], abs=0.01)


def test_leaving_makes_room_for_the_next_and_is_counted(make: Make) -> None:
    store, _ = full(make)
    first, second = enter(store), enter(store)
    assert first.leave(Ending.CANCELLED)
    assert not first.leave(Ending.TIMED_OUT)
    high = store.depths("t")[Priority.HIGH]
    assert (high.waiting, high.left) == (1, {Ending.CANCELLED: 1})
    assert second.wait(0) is None


def test_an_aged_waiter_of_a_low_level_is_served_though_the_high_keep_coming(
    make: Make, clock: Hands
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


def test_depths_tell_who_waits_since_when_and_how_long_a_newcomer_would(make: Make, clock: Hands) -> None:
    store, _ = full(make)
    enter(store, tenant="a")
    clock.sleep(2)
    enter(store, tenant="b")
    depth = store.depths("t")[Priority.HIGH]
    assert (depth.waiting, depth.oldest_s) == (2, 2.0)
    assert {name: (it.waiting, it.oldest_s) for name, it in depth.tenants.items()} == {
        "a": (1, 2.0),
        "b": (1, 0.0),
    }
    assert depth.eta_s > 58


def test_depths_tell_by_tenant_who_waits_how_long_a_newcomer_would_and_how_others_left(
    make: Make, clock: Hands
) -> None:
    store, _ = full(make)
    for _ in range(3):
        enter(store, tenant="many")
    few = enter(store, tenant="few")  # into a full room: one of the many is shed
    clock.sleep(3)
    few.leave(Ending.TIMED_OUT)
    depth = store.depths("t")[Priority.HIGH]
    many, gone = depth.tenants["many"], depth.tenants["few"]
    assert (many.waiting, many.oldest_s, many.left) == (2, 3.0, {Ending.SHED: 1})
    assert (gone.waiting, gone.oldest_s, gone.left) == (0, 0.0, {Ending.TIMED_OUT: 1})
    # Both of its own go before one of the first tenant; one of the other takes turns with them.
    assert many.eta_s == depth.eta_s
    assert gone.eta_s == pytest.approx(depth.eta_s / 2)


def test_shutting_down_hands_every_place_back(make: Make) -> None:
    store, _ = full(make)
    tickets = [enter(store), enter(store)]
    store.shut()
    assert [it.wait(0) for it in tickets] == [Ending.SHUTTING_DOWN] * 2
    assert store.depths("t")[Priority.HIGH].waiting == 0


def test_a_learnt_limit_is_probed_and_a_refusal_cuts_it_to_what_was_accepted(
    make: Make, clock: Hands
) -> None:
    store = make(LEARNT)
    kept = []
    while len(kept) < 9:  # one at a time, as an even pace has it
        decision = ask(store, ONE)
        if decision.reservation is None:
            clock.sleep(min(decision.wait_s, 1.0))  # it is tried again long before a place is free
        else:
            kept.append(decision.reservation)
    assert store.levels("t")[0].limit > 8
    store.refused(kept[-1])
    assert store.levels("t")[0].limit == 8
    assert ask(store, ONE).refusal is Refusal.QUOTA


def test_what_a_replica_had_learnt_is_kept_by_a_new_state_and_not_probed_at_once(
    redis_client: Redis, clock: Hands
) -> None:
    store = RedisQuotaStore(
        redis_client,
        {"t": (LEARNT,)},
        RULES,
        clock,
        "a",
        moment=lambda: str(int(clock.now() * SECOND)),
        pumps=False,
    )
    store.join("t", lambda everything: Spent(({},), (0,), (9,), (), ()), 0)
    granted = 0
    for _ in range(30):
        granted += ask(store, ONE).reservation is not None
        clock.sleep(1.0)
    assert (granted, store.levels("t")[0].limit) == (6, 9)  # at its pace: two at once, then one in 60 s / 9
    for _ in range(70):
        ask(store, ONE)
        clock.sleep(1.0)
    assert store.levels("t")[0].limit > 9


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
    clock = Hands()
    clock.time = start
    pair: tuple[Store, Store] = (
        MemoryQuotaStore({"t": windows}, RULES, clock, pumps=False),
        redis_store(redis_client, clock, *windows),
    )
    live: list[tuple[Reservation, Reservation]] = []
    waiting: list[tuple[Ticket, Ticket]] = []
    assert pair[0].levels("t") == pair[1].levels("t")  # both have seen the moment at which it begins
    for number, (kind, first, second, milliseconds, who) in enumerate(history):
        if kind == "wait":
            clock.sleep(milliseconds / 1000)
        elif kind == "back":
            # Around midnight the two may tell the end of different days.
            clock.sleep(0 if windows[-1].calendar else -milliseconds / 150)
        elif kind == "gate":
            for store in pair:
                store.close_until("t", milliseconds / 10_000, "rpm")
        elif kind in ("ask", "enter"):
            patience = 0.0 if kind == "ask" else milliseconds / 1000
            asking = Asking(
                f"{number:04}",
                Need(first + 1, second),
                Priority(who % 4),
                ("", "light", "heavy")[who // 4],
                patience,
            )
            one, other = (store.ask("t", asking) for store in pair)
            assert (one.refusal, one.window, one.levels) == (other.refusal, other.window, other.levels)
            assert one.wait_s == pytest.approx(other.wait_s, abs=1e-5)
            if one.reservation and other.reservation:
                live.append((one.reservation, other.reservation))
            if one.ticket and other.ticket:
                assert one.ticket.position == other.ticket.position
                waiting.append((one.ticket, other.ticket))
        elif kind == "leave" and waiting:
            for ticket in waiting.pop(first % len(waiting)):
                ticket.leave(Ending.CANCELLED)
        elif live:
            for store, reservation in zip(pair, live.pop(first % len(live)), strict=True):
                if kind == "settle":
                    store.settle(reservation, Need(first, second * 2))
                elif kind == "release":
                    store.release(reservation)
                else:
                    store.refused(reservation)
        assert pump(pair[0]) == pytest.approx(pump(pair[1]), abs=1e-5)
        for tickets in list(waiting):
            mine, theirs = (ticket.wait(0) for ticket in tickets)
            # Nobody listens here for the message that a place was shed; the heartbeat finds only that it is gone.
            assert type(mine) is type(theirs) or (mine, theirs) == (Ending.SHED, AskAgain.AGAIN)
            if isinstance(mine, Decision) and isinstance(theirs, Decision):
                assert mine.reservation is not None
                assert theirs.reservation is not None
                live.append((mine.reservation, theirs.reservation))
            if mine is not None:
                waiting.remove(tickets)
        assert pair[0].levels("t") == pair[1].levels("t")
        assert pair[0].tally("t") == pair[1].tally("t")
        for one_depth, other_depth in zip(pair[0].depths("t"), pair[1].depths("t"), strict=True):
            assert one_depth.waiting == other_depth.waiting
            assert one_depth.tenants.keys() == other_depth.tenants.keys()
            for name, crowd in one_depth.tenants.items():
                twin = other_depth.tenants[name]
                assert (crowd.waiting, crowd.left) == (twin.waiting, twin.left)
                assert (crowd.oldest_s, crowd.eta_s) == pytest.approx((twin.oldest_s, twin.eta_s), abs=1e-5)
            assert one_depth.left == other_depth.left
            assert one_depth.eta_s == pytest.approx(other_depth.eta_s, abs=1e-5)


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
    clock = Hands()
    pair: tuple[Store, Store] = (
        MemoryQuotaStore({"t": (LEARNT,)}, RULES, clock, pumps=False),
        redis_store(redis_client, clock, LEARNT),
    )
    live: list[tuple[Reservation, Reservation]] = []

    def asked() -> bool:
        asking = Asking(f"{next(KEYS):06}", ONE, level, "", 0.0)
        one, other = (store.ask("t", asking) for store in pair)
        assert (one.refusal, one.levels) == (other.refusal, other.levels)
        assert one.wait_s == pytest.approx(other.wait_s, abs=1e-5)
        if one.reservation and other.reservation:
            live.append((one.reservation, other.reservation))
        return one.reservation is not None

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
                    store.refused(reservation)
        assert pair[0].levels("t") == pair[1].levels("t")


@pytest.mark.parametrize("hours", [0, 1])
def test_the_lease_of_a_dead_replica_ends_on_time_though_the_clock_is_set_back(
    hours: int, redis_client: Redis, clock: Hands
) -> None:
    dead = redis_store(redis_client, clock, WINDOWS[1])
    take(dead, Need(100, 300))
    dead.beat("t")
    living = RedisQuotaStore(
        redis_client, {"t": WINDOWS[1:2]}, RULES, clock, "b", moment=lambda: str(int(clock.now() * SECOND))
    )
    living.join("t", lambda _: Spent(({},), (0,), (1000,), (), ()), 0)
    clock.sleep(1 - hours * 3600)
    assert living.beat("t").alive == 2
    clock.sleep(5)
    pulse = living.beat("t")
    assert (pulse.alive, [(it.used, it.held) for it in pulse.levels]) == (1, [(400, 0)])
