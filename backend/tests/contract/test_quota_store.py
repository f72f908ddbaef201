"""One suite over both quota stores, and the two held against each other step by step under one clock."""

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from redis import Redis

from knowalledge.adapters.memory.quota_store import MemoryQuotaStore
from knowalledge.adapters.redis.quota_store import RedisQuotaStore
from knowalledge.domain.errors import NeverFits
from knowalledge.domain.ports import QuotaStore, Reservation
from knowalledge.domain.quota import SECOND, Count, Need, Window

START = 1_790_000_000.0
WINDOWS = (
    Window("rpm", Count.REQUESTS, 10, 60),
    Window("tpm", Count.TOKENS, 1000, 60),
    Window("otpm", Count.OUTPUT, 700, 7),
    Window("rpd", Count.REQUESTS, 60, 86_400, zone="America/Los_Angeles"),
)


class FakeClock:
    def __init__(self) -> None:
        self.seconds = START

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def redis_store(client: Redis, clock: FakeClock, *windows: Window) -> RedisQuotaStore:
    """The Redis store under the test's clock instead of Redis' own."""
    return RedisQuotaStore(client, {"t": windows}, clock, "a", moment=lambda: str(int(clock.now() * SECOND)))


Make = Callable[..., QuotaStore]


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture(params=["memory", "redis"])
def make(request: pytest.FixtureRequest, clock: FakeClock) -> Make:
    if request.param == "memory":
        return lambda *windows: MemoryQuotaStore({"t": windows}, clock)
    client: Redis = request.getfixturevalue("redis_client")
    return lambda *windows: redis_store(client, clock, *windows)


def take(store: QuotaStore, need: Need) -> Reservation:
    decision = store.reserve("t", need)
    assert decision.reservation is not None
    return decision.reservation


def used(store: QuotaStore) -> list[int]:
    return [level.used for level in store.levels("t")]


def test_grants_exactly_the_limit(make: Make) -> None:
    store = make(WINDOWS[0])
    granted = [store.reserve("t", Need(1, 1)).reservation is not None for _ in range(12)]
    assert granted == [True] * 10 + [False] * 2


def test_a_refusal_names_the_window_and_the_moment_at_which_it_has_room(make: Make, clock: FakeClock) -> None:
    store = make(*WINDOWS[:2])
    take(store, Need(900, 0))
    clock.sleep(20)
    refused = store.reserve("t", Need(200, 0))
    assert (refused.reservation, refused.window) == (None, "tpm")
    clock.sleep(refused.wait_s - 0.001)
    assert store.reserve("t", Need(200, 0)).reservation is None
    clock.sleep(0.001)
    take(store, Need(200, 0))


def test_settling_gives_back_what_was_not_used_and_charges_what_was(make: Make, clock: FakeClock) -> None:
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


def test_a_calendar_day_begins_anew_at_midnight_in_its_zone(make: Make, clock: FakeClock) -> None:
    store = make(Window("rpd", Count.REQUESTS, 1, 86_400, zone="America/Los_Angeles"))
    take(store, Need(1, 1))
    refused = store.reserve("t", Need(1, 1))
    assert 0 < refused.wait_s <= 86_400
    clock.sleep(refused.wait_s)
    take(store, Need(1, 1))


def test_a_gate_holds_for_its_time_and_a_shorter_one_does_not_open_it(make: Make, clock: FakeClock) -> None:
    store = make(*WINDOWS)
    store.close_until("t", 33.0, "rpm")
    store.close_until("t", 1.0, "rpm")
    assert store.reserve("t", Need(1, 1)).wait_s == pytest.approx(33.0)
    clock.sleep(33.0)
    take(store, Need(1, 1))


def test_what_can_never_fit_is_refused_for_good(make: Make) -> None:
    with pytest.raises(NeverFits):
        make(*WINDOWS).reserve("t", Need(1001, 0))


def test_a_large_prediction_does_not_refuse_a_first_request(make: Make) -> None:
    take(make(*WINDOWS), Need(900, 100_000))


def test_a_target_without_windows_is_unlimited(make: Make) -> None:
    store = make()
    for _ in range(50):
        store.settle(take(store, Need(10**6, 10**6)), Need(1, 1))
    assert store.levels("t") == ()


Step = tuple[str, int, int, int]
steps = st.lists(
    st.tuples(
        st.sampled_from(["reserve", "reserve", "reserve", "settle", "release", "wait", "gate"]),
        st.integers(0, 400),
        st.integers(0, 300),
        st.integers(0, 90_000),
    ),
    max_size=40,
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(history=steps)
def test_the_scripts_and_the_arithmetic_agree_step_by_step(history: list[Step], redis_client: Redis) -> None:
    redis_client.flushdb()
    clock = FakeClock()
    stores: tuple[QuotaStore, QuotaStore] = (
        MemoryQuotaStore({"t": WINDOWS}, clock),
        redis_store(redis_client, clock, *WINDOWS),
    )
    live: list[tuple[Reservation | None, Reservation | None]] = []
    for kind, first, second, milliseconds in history:
        if kind == "wait":
            clock.sleep(milliseconds / 1000)
        elif kind == "gate":
            for store in stores:
                store.close_until("t", milliseconds / 10_000, "rpm")
        elif kind == "reserve":
            one, other = (store.reserve("t", Need(first + 1, second)) for store in stores)
            assert (one.reservation is None) == (other.reservation is None)
            assert (one.window, one.levels) == (other.window, other.levels)
            assert one.wait_s == pytest.approx(other.wait_s, abs=1e-5)
            if one.reservation is not None:
                live.append((one.reservation, other.reservation))
        elif live:
            pair = live.pop(first % len(live))
            for store, reservation in zip(stores, pair, strict=True):
                assert reservation is not None
                if kind == "settle":
                    store.settle(reservation, Need(first, second * 2))
                else:
                    store.release(reservation)
        assert stores[0].levels("t") == stores[1].levels("t")
