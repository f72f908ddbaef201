"""Who is resumed first when many wait for a provider at once."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
from gevent.hub import Waiter
from gevent.socket import socketpair

from knowalledge.net.http import connection as wire

S = 20.0
SHORT = 0.05


class Loop:
    """A loop whose rounds and time a test makes go on."""

    def __init__(self) -> None:
        self.time = 100.0
        self.next: Callable[[], None] | None = None

    def now(self) -> float:
        return self.time

    def run_callback(self, callback: Callable[[], None]) -> None:
        self.next = callback

    def timer(self, _: float) -> Any:
        return SimpleNamespace(start=self.run_callback)

    def round(self) -> None:
        self.time += 0.001
        callback, self.next = self.next, None
        if callback is not None:
            callback()


class Waiting:
    """Who waits: writes its name down when it is resumed, and may wait again."""

    def __init__(
        self, name: str, resumed: list[str], again: Callable[["Waiting"], None] | None = None
    ) -> None:
        self.name, self._resumed, self._again = name, resumed, again

    def switch(self, _: None) -> None:
        self._resumed.append(self.name)
        if self._again is not None:
            self._again(self)


def turns_on(loop: Loop) -> Any:
    return wire.FairScheduler(SimpleNamespace(loop=loop))


def test_of_many_that_have_news_a_few_are_resumed_before_somebody_new_is_heard() -> None:
    turns = wire.FairScheduler(gevent.get_hub())
    waiters: list[Waiter[None]] = []
    order: list[str] = []

    def stream() -> None:
        waiter: Waiter[None] = Waiter()
        waiters.append(waiter)
        waiter.get()
        order.append("stream")

    def newcomer() -> None:
        ours.recv(1)
        order.append("new")

    def come() -> None:
        for waiter in waiters:
            turns.resume(waiter, started=True)

    ours, theirs = socketpair()
    try:
        greenlets = [gevent.spawn(stream) for _ in range(10 * wire.STARTED_PER_ROUND)] + [
            gevent.spawn(newcomer)
        ]
        gevent.sleep(SHORT)
        theirs.send(b"?")
        gevent.get_hub().loop.run_callback(come)
        gevent.joinall(greenlets, timeout=S, raise_error=True)
    finally:
        ours.close()
        theirs.close()
    assert order.index("new") <= 2 * wire.STARTED_PER_ROUND
    assert order.count("stream") == len(waiters)


def test_with_nobody_in_the_way_the_event_is_the_turn_of_one_that_has_begun() -> None:
    loop, resumed = Loop(), list[str]()
    turns = turns_on(loop)
    assert not turns.resume(Waiting("begun", resumed), started=True)
    assert (resumed, loop.next) == (["begun"], None)


def test_a_few_go_on_and_fewer_begin_in_each_round() -> None:
    loop, resumed = Loop(), list[str]()
    turns = turns_on(loop)
    for _ in range(3 * wire.STARTED_PER_ROUND):
        turns.resume(Waiting("begun", resumed), started=True)
    for times in (1, 2, 3):
        assert len(resumed) == times * wire.STARTED_PER_ROUND
        loop.round()
    assert loop.next is None
    resumed.clear()
    for _ in range(3 * wire.NEW_PER_ROUND):
        turns.resume(Waiting("new", resumed), started=False)
    for times in (1, 2, 3):
        loop.round()
        assert len(resumed) == times * wire.NEW_PER_ROUND
    assert loop.next is None


def test_a_round_in_which_all_have_had_their_turn_has_no_second_turn() -> None:
    loop, resumed = Loop(), list[str]()
    turns = turns_on(loop)
    for _ in range(2 * wire.STARTED_PER_ROUND):
        turns.resume(Waiting("begun", resumed), started=True)
    loop.round()
    turns.resume(Waiting("late", resumed), started=True)
    assert resumed == ["begun"] * (2 * wire.STARTED_PER_ROUND)
    loop.round()
    assert resumed[-1] == "late"


def busy(resumed: list[str]) -> tuple[Loop, Any]:
    """Turns in whose first round nobody may go on any more."""
    loop = Loop()
    turns = turns_on(loop)
    for _ in range(wire.STARTED_PER_ROUND):
        turns.resume(Waiting("begun", []), started=True)
    turns.resume(Waiting("begun", resumed), started=True)
    return loop, turns


def test_answers_that_have_begun_go_before_those_that_have_not() -> None:
    resumed: list[str] = []
    loop, turns = busy(resumed)
    turns.resume(Waiting("new", resumed), started=False)
    for _ in range(wire.STARTED_PER_ROUND):
        turns.resume(Waiting("begun", resumed), started=True)
    loop.round()
    assert resumed == ["begun"] * wire.STARTED_PER_ROUND
    loop.round()
    assert resumed[-2:] == ["begun", "new"]
    assert loop.next is None


def test_while_others_take_all_the_time_one_that_is_overdue_begins_in_each_round() -> None:
    resumed: list[str] = []
    loop, turns = busy(resumed)
    turns.resume(Waiting("first", resumed), started=False)
    turns.resume(Waiting("second", resumed), started=False)
    for _ in range(2 * wire.STARTED_PER_ROUND):
        turns.resume(Waiting("begun", resumed, lambda it: turns.resume(it, started=True)), started=True)
    for _ in range(5):
        loop.round()
    assert set(resumed) == {"begun"}
    loop.time += wire.OVERDUE_S + 0.1
    loop.round()
    assert [name for name in resumed if name != "begun"] == ["first"]
    loop.round()
    assert [name for name in resumed if name != "begun"] == ["first", "second"]
