"""The order in which greenlets are resumed when many responses have data at once."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import gevent
from gevent.hub import Waiter
from gevent.socket import socketpair

from knowalledge.net.http import connection as wire

S = 20.0
SHORT = 0.05


class ManualLoop:
    """An event loop whose rounds and time the test advances."""

    def __init__(self) -> None:
        self.time = 100.0
        self.callback: Callable[[], None] | None = None

    def now(self) -> float:
        return self.time

    def run_callback(self, callback: Callable[[], None]) -> None:
        self.callback = callback

    def timer(self, _: float) -> Any:
        return SimpleNamespace(start=self.run_callback)

    def round(self) -> None:
        self.time += 0.001
        callback, self.callback = self.callback, None
        if callback is not None:
            callback()


class RecordingWaiter:
    """Records its name when it is resumed, and may wait again."""

    def __init__(
        self, name: str, resumed: list[str], again: Callable[["RecordingWaiter"], None] | None = None
    ) -> None:
        self.name, self._resumed, self._again = name, resumed, again

    def switch(self, _: None) -> None:
        self._resumed.append(self.name)
        if self._again is not None:
            self._again(self)


def scheduler_on(loop: ManualLoop) -> Any:
    return wire.FairScheduler(SimpleNamespace(loop=loop))


def test_of_many_readable_streams_a_few_are_resumed_before_a_new_request_is_served() -> None:
    scheduler = wire.FairScheduler(gevent.get_hub())
    waiters: list[Waiter[None]] = []
    order: list[str] = []

    def stream() -> None:
        waiter: Waiter[None] = Waiter()
        waiters.append(waiter)
        waiter.get()
        order.append("stream")

    def new_request() -> None:
        near.recv(1)
        order.append("new")

    def all_readable() -> None:
        for waiter in waiters:
            scheduler.resume(waiter, started=True)

    near, far = socketpair()
    try:
        greenlets = [gevent.spawn(stream) for _ in range(10 * wire.STARTED_PER_ROUND)] + [
            gevent.spawn(new_request)
        ]
        gevent.sleep(SHORT)
        far.send(b"?")
        gevent.get_hub().loop.run_callback(all_readable)
        gevent.joinall(greenlets, timeout=S, raise_error=True)
    finally:
        near.close()
        far.close()
    assert order.index("new") <= 2 * wire.STARTED_PER_ROUND
    assert order.count("stream") == len(waiters)


def test_without_a_queue_a_started_response_is_resumed_at_once() -> None:
    loop, resumed = ManualLoop(), list[str]()
    scheduler = scheduler_on(loop)
    assert not scheduler.resume(RecordingWaiter("started", resumed), started=True)
    assert (resumed, loop.callback) == (["started"], None)


def test_each_round_resumes_a_few_started_and_fewer_new_responses() -> None:
    loop, resumed = ManualLoop(), list[str]()
    scheduler = scheduler_on(loop)
    for _ in range(3 * wire.STARTED_PER_ROUND):
        scheduler.resume(RecordingWaiter("started", resumed), started=True)
    for rounds in (1, 2, 3):
        assert len(resumed) == rounds * wire.STARTED_PER_ROUND
        loop.round()
    assert loop.callback is None
    resumed.clear()
    for _ in range(3 * wire.NEW_PER_ROUND):
        scheduler.resume(RecordingWaiter("new", resumed), started=False)
    for rounds in (1, 2, 3):
        loop.round()
        assert len(resumed) == rounds * wire.NEW_PER_ROUND
    assert loop.callback is None


def test_a_round_without_budget_defers_a_late_response() -> None:
    loop, resumed = ManualLoop(), list[str]()
    scheduler = scheduler_on(loop)
    for _ in range(2 * wire.STARTED_PER_ROUND):
        scheduler.resume(RecordingWaiter("started", resumed), started=True)
    loop.round()
    scheduler.resume(RecordingWaiter("late", resumed), started=True)
    assert resumed == ["started"] * (2 * wire.STARTED_PER_ROUND)
    loop.round()
    assert resumed[-1] == "late"


def busy(resumed: list[str]) -> tuple[ManualLoop, Any]:
    """A scheduler whose budget for the first round is used up."""
    loop = ManualLoop()
    scheduler = scheduler_on(loop)
    for _ in range(wire.STARTED_PER_ROUND):
        scheduler.resume(RecordingWaiter("started", []), started=True)
    scheduler.resume(RecordingWaiter("started", resumed), started=True)
    return loop, scheduler


def test_started_responses_go_before_new_ones() -> None:
    resumed: list[str] = []
    loop, scheduler = busy(resumed)
    scheduler.resume(RecordingWaiter("new", resumed), started=False)
    for _ in range(wire.STARTED_PER_ROUND):
        scheduler.resume(RecordingWaiter("started", resumed), started=True)
    loop.round()
    assert resumed == ["started"] * wire.STARTED_PER_ROUND
    loop.round()
    assert resumed[-2:] == ["started", "new"]
    assert loop.callback is None


def test_an_overdue_new_response_starts_in_each_round_despite_started_ones() -> None:
    resumed: list[str] = []
    loop, scheduler = busy(resumed)
    scheduler.resume(RecordingWaiter("first", resumed), started=False)
    scheduler.resume(RecordingWaiter("second", resumed), started=False)
    for _ in range(2 * wire.STARTED_PER_ROUND):
        scheduler.resume(
            RecordingWaiter("started", resumed, lambda it: scheduler.resume(it, started=True)), started=True
        )
    for _ in range(5):
        loop.round()
    assert set(resumed) == {"started"}
    loop.time += wire.OVERDUE_S + 0.1
    loop.round()
    assert [name for name in resumed if name != "started"] == ["first"]
    loop.round()
    assert [name for name in resumed if name != "started"] == ["first", "second"]
