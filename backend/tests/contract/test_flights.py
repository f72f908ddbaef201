"""One suite over flights within a process and over Redis; then replicas that die, freeze or lose their Redis."""

from collections.abc import Callable, Iterator
from itertools import count
from typing import Any
from uuid import uuid4

import gevent
import pytest
from gevent.event import Event
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from knowalledge.caching.ports import Flight, Flights
from knowalledge.caching.singleflight.memory import MemoryFlights
from knowalledge.caching.singleflight.redis import Pace, RedisFlights
from knowalledge.core.clock import SystemClock
from knowalledge.core.errors import (
    ContentBlocked,
    KnowalledgeError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    QuotaExhausted,
    ShuttingDown,
)
from knowalledge.gateway.domain.failures import failure_bytes, failure_of
from knowalledge.net.redis.breaker import RedisBreaker

# Tests run in an unpatched process, so a blocking read would stop every greenlet: they poll.
# The lease is long for a test: on a machine with other work a leader that lives may be that late to renew it.
from tests.support.properties import examples

PACE = Pace(lease=0.6, block=0, poll=0.005, keep=10)
CLOCK = SystemClock()

_KEY = [""]


def k() -> str:
    """The key of this test, or example: followers that an earlier one left behind cannot lead it."""
    return _KEY[0]


@pytest.fixture(autouse=True)
def _own_key() -> Iterator[None]:
    _KEY[0] = uuid4().hex
    yield
    # Followers that poll on would take the time of the tests to come.
    gevent.killall(_greenlets(), timeout=10)


class Client:
    """A replica's connection, which can be cut."""

    def __init__(self, inner: Redis) -> None:
        self.inner: Any = inner
        self.cut = False

    def execute_command(self, *args: Any) -> Any:
        gevent.sleep(0)  # as if the socket gave way
        if self.cut:
            raise ConnectionRefusedError
        return self.inner.execute_command(*args)


def over(client: Any) -> RedisFlights:
    return RedisFlights(client, RedisBreaker(CLOCK, 0.05), CLOCK, lambda: uuid4().hex, PACE)


Make = Callable[[], Flights]


@pytest.fixture(params=["one process", "one replica", "two replicas"])
def make(request: pytest.FixtureRequest) -> Make:
    """Each call gives the flights that the next caller uses."""
    if request.param == "one process":
        flights: Flights = MemoryFlights(CLOCK)
        return lambda: flights
    redis: Redis = request.getfixturevalue("redis_client")
    if request.param == "one replica":
        flights = over(Client(redis))
        return lambda: flights
    replicas = [over(Client(redis)), over(Client(redis))]
    turn = count()
    return lambda: replicas[next(turn) % 2]


class Work:
    """Work that says its pieces when it is told to, and counts how often it was begun."""

    def __init__(self, *pieces: bytes, error: Exception | None = None) -> None:
        self.pieces, self.error = pieces, error
        self.begun = 0
        self.closed = 0
        self.go = Event()

    def __call__(self) -> Iterator[bytes]:
        self.begun += 1
        try:
            for index, piece in enumerate(self.pieces):
                if index:
                    self.go.wait()
                yield piece
            self.go.wait()
            if self.error:
                raise self.error
        finally:
            self.closed += 1


def everything(flight: Flight, timeout: float = 5) -> list[bytes | None]:
    return list(flight.follow(timeout))


def settle() -> None:
    gevent.sleep(0.03)


def test_many_callers_share_one_run_and_all_get_every_piece(make: Make) -> None:
    work = Work(b"a", b"b", b"c")
    flights = [make().fly(k(), work) for _ in range(20)]
    followers = [gevent.spawn(everything, flight) for flight in flights]
    settle()
    late = gevent.spawn(everything, make().fly(k(), work))
    settle()
    work.go.set()
    gevent.joinall([*followers, late], timeout=30)
    assert [it.value for it in [*followers, late]] == [[b"a", b"b", b"c"]] * 21
    assert work.begun == work.closed == 1
    assert [flight.led for flight in flights] == [True] + [False] * 19


def test_every_replica_knows_what_is_flying(make: Make) -> None:
    work = Work(b"a")
    assert [make().flying(k()) for _ in range(2)] == [False, False]
    flight = make().fly(k(), work)
    settle()
    assert [make().flying(k()) for _ in range(2)] == [True, True]
    work.go.set()
    everything(flight)
    settle()
    assert [make().flying(k()) for _ in range(2)] == [False, False]


def test_different_keys_fly_apart(make: Make) -> None:
    one, two = Work(b"1"), Work(b"2")
    one.go.set()
    two.go.set()
    assert everything(make().fly("one", one)) == [b"1"]
    assert everything(make().fly("two", two)) == [b"2"]


def test_pieces_come_as_they_are_said(make: Make) -> None:
    work = Work(b"a", b"b")
    make().fly(k(), work)
    settle()
    pieces = make().fly(k(), work).follow(5)
    assert next(pieces) == b"a"
    work.go.set()
    assert list(pieces) == [b"b"]


def test_the_run_goes_on_when_the_caller_who_began_it_leaves(make: Make) -> None:
    work = Work(b"a", b"b")
    pieces = make().fly(k(), work).follow(5)
    next(pieces)
    pieces.close()  # type: ignore[attr-defined]
    other = gevent.spawn(everything, make().fly(k(), work))
    settle()
    work.go.set()
    other.join(30)
    assert other.value == [b"a", b"b"]
    assert work.begun == 1


def test_a_failure_is_everybodys_and_the_next_caller_begins_anew(make: Make) -> None:
    work = Work(b"a", error=QuotaExhausted("spent", retry_after=7.0))
    flights = [make().fly(k(), work) for _ in range(4)]
    settle()
    work.go.set()
    for flight in flights:
        with pytest.raises(QuotaExhausted, match="spent") as caught:
            everything(flight)
        assert caught.value.retry_after == 7.0
    settle()
    again = Work(b"ok")
    again.go.set()
    assert everything(make().fly(k(), again)) == [b"ok"]


def test_a_fault_of_our_own_reaches_others_without_its_text(make: Make) -> None:
    work = Work(b"a", error=RuntimeError("a secret"))
    flights = [make().fly(k(), work) for _ in range(2)]
    settle()
    work.go.set()
    for flight in flights:
        with pytest.raises((RuntimeError, KnowalledgeError)) as caught:
            everything(flight)
        assert isinstance(caught.value, RuntimeError) or "secret" not in str(caught.value)


def test_a_follower_whose_time_is_over_leaves_and_the_others_do_not(make: Make) -> None:
    work = Work(b"a")
    patient = gevent.spawn(everything, make().fly(k(), work))
    with pytest.raises(ProviderTimeout):
        everything(make().fly(k(), work), 0.05)
    work.go.set()
    patient.join(30)
    assert patient.value == [b"a"]


@pytest.mark.parametrize(
    "error",
    [
        QuotaExhausted("q", retry_after=1.5),
        ProviderRateLimited("r", retry_after=2.0, quota_id="rpm"),
        ProviderTimeout("t"),
        KnowalledgeError("k", param="p"),
        ContentBlocked("b"),
        ContentBlocked("b", reason="PROHIBITED_CONTENT"),
        ProviderRejected("too long", status=413, provider_code="context_length_exceeded", param="messages"),
    ],
)
def test_a_failure_as_bytes_is_itself_again(error: KnowalledgeError) -> None:
    found = failure_of(failure_bytes(error))
    assert type(found) is type(error)
    assert vars(found) == vars(error)


def test_bytes_that_are_no_failure_are_one_all_the_same() -> None:
    assert isinstance(failure_of(b"\xff\x00"), KnowalledgeError)


# -- replicas that die ---------------------------------------------------------------------------------


@pytest.fixture
def clients(redis_client: Redis) -> list[Client]:
    return [Client(redis_client) for _ in range(3)]


def test_a_dead_leader_is_replaced_and_its_followers_start_over(clients: list[Client]) -> None:
    replicas = [over(client) for client in clients]
    first, second = Work(b"a", b"b"), Work(b"A", b"B")
    replicas[0].fly(k(), first)
    settle()
    followers = [gevent.spawn(everything, it.fly(k(), second)) for it in replicas[1:]]
    settle()
    clients[0].cut = True  # it lives, but nobody hears it any more
    with gevent.Timeout(5):
        while not second.begun:
            gevent.sleep(0.01)
    gevent.sleep(2 * PACE.lease)  # the other follower has noticed too
    second.go.set()
    gevent.joinall(followers, timeout=30)
    assert [it.value for it in followers] == [[b"a", None, b"A", b"B"]] * 2
    assert second.begun == 1
    first.go.set()
    settle()


def test_a_slow_leader_that_lives_is_not_replaced(clients: list[Client]) -> None:
    replicas = [over(client) for client in clients[:2]]
    first, second = Work(b"a"), Work(b"B")
    replicas[0].fly(k(), first)
    settle()
    follower = gevent.spawn(everything, replicas[1].fly(k(), second))
    gevent.sleep(2 * PACE.lease)
    first.go.set()
    follower.join(30)
    assert follower.value == [b"a"]
    assert second.begun == 0


def test_a_leader_that_shuts_down_is_replaced(clients: list[Client]) -> None:
    replicas = [over(client) for client in clients[:2]]
    first, second = Work(b"a"), Work(b"B")
    second.go.set()
    seat = replicas[0].fly(k(), first)
    settle()
    follower = gevent.spawn(everything, replicas[1].fly(k(), second))
    settle()
    leader = next(it for it in _greenlets() if first.begun and it.args[:1] == (k(),) and it.args[2] is first)
    leader.kill()
    with pytest.raises(ShuttingDown):
        everything(seat)
    follower.join(30)
    assert follower.get()[-1] == b"B"
    assert first.closed == 1


def _greenlets() -> list[Any]:
    import gc

    return [it for it in gc.get_objects() if isinstance(it, gevent.Greenlet) and not it.dead]


def test_without_redis_each_replica_flies_alone_and_nobody_hangs(clients: list[Client]) -> None:
    replicas = [over(client) for client in clients]
    for client in clients:
        client.cut = True
    work = Work(b"a")
    work.go.set()
    assert [everything(it.fly(k(), work)) for it in replicas] == [[b"a"]] * 3
    assert work.begun == 3


def test_a_redis_that_goes_during_a_flight_leaves_the_leader_its_followers(clients: list[Client]) -> None:
    replicas = [over(client) for client in clients[:2]]
    first, second = Work(b"a", b"b"), Work(b"A", b"B")
    here = gevent.spawn(everything, replicas[0].fly(k(), first))
    settle()
    there = gevent.spawn(everything, replicas[1].fly(k(), second))
    settle()
    for client in clients:
        client.cut = True
    first.go.set()
    second.go.set()
    gevent.joinall([here, there], timeout=30)
    assert here.value == [b"a", b"b"]
    assert there.value == [b"a", None, b"A", b"B"]


def test_nothing_stays_behind(clients: list[Client], redis_client: Redis) -> None:
    flights = over(clients[0])
    work = Work(b"a")
    work.go.set()
    everything(flights.fly(k(), work))
    settle()
    assert flights._runs == {}
    names: Any = redis_client.keys("kn:{flight:*")
    assert all(0 < redis_client.pttl(name) <= 1000 * PACE.keep for name in names)
    assert not [name for name in names if name.endswith(b"lease")]


STEPS = st.lists(
    st.tuples(st.sampled_from(["ask", "ask", "say", "cut", "mend", "wait"]), st.integers(0, 2)), max_size=12
)


@given(steps=STEPS)
@examples(25)
def test_whatever_happens_every_caller_gets_one_whole_answer_and_runs_do_not_overlap_needlessly(
    redis_client: Redis, steps: list[tuple[str, int]]
) -> None:
    _KEY[0] = uuid4().hex
    clients = [Client(redis_client) for _ in range(3)]
    replicas = [over(client) for client in clients]
    works = [Work(b"%d1" % index, b"%d2" % index) for index in range(3)]
    asked: list[Any] = []
    cuts = 0
    for action, who in steps:
        if action == "ask":
            # Twelve waits are longer than anybody's usual patience.
            asked.append(gevent.spawn(everything, replicas[who].fly(k(), works[who]), 30))
        elif action == "say":
            works[who].go.set()
        elif action == "cut":
            clients[who].cut = True
            cuts += 1
        elif action == "mend":
            clients[who].cut = False
        gevent.sleep(PACE.lease if action == "wait" else 0.01)
        if not cuts:
            assert sum(it.begun - it.closed for it in works) <= 1
    for client in clients:
        client.cut = False
    for work in works:
        work.go.set()
    gevent.joinall(asked, timeout=30)
    for it in asked:
        assert it.value is not None
        last = it.value[len(it.value) - it.value[::-1].index(None) :] if None in it.value else it.value
        assert last in ([b"01", b"02"], [b"11", b"12"], [b"21", b"22"])
