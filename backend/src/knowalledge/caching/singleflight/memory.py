"""One run of the same work at a time within a process; the work runs in a greenlet of its own."""

from collections.abc import Callable, Iterator

import gevent
from gevent.event import Event

from knowalledge.caching.ports import Flight
from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderTimeout, ShuttingDown

Work = Callable[[], Iterator[bytes]]


class FlightRun:
    """The pieces of one run so far, and everybody in this process who waits for more."""

    def __init__(self) -> None:
        self.led_here = False  # whether the work runs in this process
        self._pieces: list[bytes] = []
        self._round = 0
        self._ended = False
        self._error: BaseException | None = None
        self._news = Event()  # a new one for each piece: setting and clearing one would lose who is late

    def publish(self, piece: bytes) -> None:
        self._pieces.append(piece)
        self._tell()

    def restart(self) -> None:
        """The run was lost; what was published does not count any more."""
        if self._pieces:
            self._pieces = []
            self._round += 1
            self._tell()

    def end(self, error: BaseException | None = None) -> None:
        self._ended, self._error = True, error
        self._tell()

    def _tell(self) -> None:
        news, self._news = self._news, Event()
        news.set()

    def follow(self, clock: Clock, timeout: float) -> Iterator[bytes | None]:
        deadline = clock.monotonic() + timeout
        at, round_ = 0, self._round
        while True:
            if round_ != self._round:
                at, round_ = 0, self._round
                yield None
            elif at < len(self._pieces):
                at += 1
                yield self._pieces[at - 1]
            elif self._ended:
                if self._error is not None:
                    raise self._error.with_traceback(None)
                return
            else:
                left = deadline - clock.monotonic()
                if left <= 0 or not self._news.wait(left):
                    raise ProviderTimeout("the deadline passed before an answer came")


class Seat:
    """Implements ``Flight``."""

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
            return Seat(run, False, self._clock)
        run = self._runs[key] = FlightRun()
        gevent.spawn(self._fly, key, run, work)
        return Seat(run, True, self._clock)

    def flying(self, key: str) -> bool:
        return key in self._runs

    def _fly(self, key: str, run: FlightRun, work: Work) -> None:
        try:
            self._conduct(key, run, work)
        except BaseException as error:  # a kill too: nobody may be left waiting for a run that will never end
            run.end(ShuttingDown("this replica is shutting down") if _killed(error) else error)
            raise
        finally:
            del self._runs[key]

    def _conduct(self, key: str, run: FlightRun, work: Work) -> None:  # noqa: ARG002 - the shared kind needs it
        lead(run, work, lambda _: None)


def _killed(error: BaseException) -> bool:
    return isinstance(error, gevent.GreenletExit)


def lead(run: FlightRun, work: Work, publish: Callable[[bytes], None]) -> BaseException | None:
    """Do the work here; every piece goes to ``publish`` too. Returns how it failed, None if it did not."""
    run.led_here = True
    pieces = work()
    try:
        for piece in pieces:
            run.publish(piece)
            publish(piece)
    except Exception as error:  # noqa: BLE001 - whatever it is belongs to those who wait, not to this greenlet
        run.end(error)
        return error
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
    run.end()
    return None
