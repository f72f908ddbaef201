"""Single flight within a process; the work runs in a greenlet of its own."""

from collections.abc import Callable, Iterator

import gevent
from gevent.event import Event

from knowalledge.caching.ports import Flight
from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderTimeout, ShuttingDown

Work = Callable[[], Iterator[bytes]]


class FlightRun:
    """The pieces of one run so far, and an event for the callers in this process that wait for more."""

    def __init__(self) -> None:
        self.led_here = False  # the work runs in this process
        self._pieces: list[bytes] = []
        self._round = 0
        self._ended = False
        self._error: BaseException | None = None
        self._changed = Event()  # replaced at each change: a waiter that is late would miss set() and clear()

    def publish(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._notify()

    def restart(self) -> None:
        """The run was lost: what it published is void."""
        if self._pieces:
            self._pieces = []
            self._round += 1
            self._notify()

    def end(self, error: BaseException | None = None) -> None:
        self._ended, self._error = True, error
        self._notify()

    def _notify(self) -> None:
        changed, self._changed = self._changed, Event()
        changed.set()

    def follow(self, clock: Clock, timeout: float) -> Iterator[bytes | None]:
        deadline = clock.monotonic() + timeout
        position, round_ = 0, self._round
        while True:
            if round_ != self._round:
                position, round_ = 0, self._round
                yield None
            elif position < len(self._pieces):
                position += 1
                yield self._pieces[position - 1]
            elif self._ended:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                return
            else:
                left_s = deadline - clock.monotonic()
                if left_s <= 0 or not self._changed.wait(left_s):
                    raise ProviderTimeout("the deadline passed before an answer came")


class FlightSeat:
    """Implements ``Flight``: one caller's view of a run."""

    def __init__(self, run: FlightRun, first: bool, clock: Clock) -> None:
        self._run, self._first, self._clock = run, first, clock

    @property
    def led(self) -> bool:
        return self._first and self._run.led_here

    def follow(self, timeout: float) -> Iterator[bytes | None]:
        return self._run.follow(self._clock, timeout)


class MemoryFlights:
    """Implements ``Flights`` for one process."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._runs: dict[str, FlightRun] = {}

    def fly(self, key: str, work: Work) -> Flight:
        run = self._runs.get(key)
        if run is not None:
            return FlightSeat(run, False, self._clock)
        run = self._runs[key] = FlightRun()
        gevent.spawn(self._fly, key, run, work)
        return FlightSeat(run, True, self._clock)

    def flying(self, key: str) -> bool:
        return key in self._runs

    def _fly(self, key: str, run: FlightRun, work: Work) -> None:
        try:
            self._conduct(key, run, work)
        except BaseException as error:  # a kill too: callers must not wait for a run that will never end
            run.end(ShuttingDown("this replica is shutting down") if _killed(error) else error)
            raise
        finally:
            del self._runs[key]

    def _conduct(self, key: str, run: FlightRun, work: Work) -> None:  # noqa: ARG002 - RedisFlights uses it
        lead(run, work, lambda _: None)


def _killed(error: BaseException) -> bool:
    return isinstance(error, gevent.GreenletExit)


def lead(run: FlightRun, work: Work, publish: Callable[[bytes], None]) -> BaseException | None:
    """Run the work here and pass every piece to ``publish`` too. Returns its exception, or None."""
    run.led_here = True
    pieces = work()
    try:
        for piece in pieces:
            run.publish(piece)
            publish(piece)
    except Exception as error:  # noqa: BLE001 - the exception belongs to the callers, not to this greenlet
        run.end(error)
        return error
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    run.end()
    return None
