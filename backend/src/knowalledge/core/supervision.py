"""Keeps alive the greenlets that work beside requests, whatever error ends one of their runs.

A greenlet that dies of an error nobody expected is missed by nobody: its work is simply not done any more. So each is
started by a ``Supervisor``, which logs an error once with its class, counts it, and runs the work again. A test holds
that nothing else starts a greenlet, but for a list of those that end with one request.
"""

import random
from collections.abc import Callable
from typing import Any

import gevent
import structlog

from knowalledge.core.clock import Clock, SystemClock
from knowalledge.core.metrics import Metric, Metrics

ERRORS = Metric(
    "knowalledge_background_errors_total",
    "counter",
    ("work",),
    "Runs of background work that ended with an unexpected error and were started again.",
)
FIRST_DELAY_S, MAX_DELAY_S = 0.1, 5.0  # between a failed run and the next: doubled each time, and jittered
# A run that lasts this long has recovered from the failures before it.
RECOVERED_S = 15.0
# Work that has failed in every run for so long cannot be kept alive: the process should be replaced.
GIVE_UP_S = 60.0


class _Work:
    """One greenlet's work, and its failures in a row."""

    def __init__(self, name: str, started: float) -> None:
        self.name = name
        self.started = started  # of this run, monotonic
        self.failing_since: float | None = None
        self.failures = 0
        self.logged: set[str] = set()  # classes of errors, in this row of failures
        self.greenlet: gevent.Greenlet[..., None] | None = None

    def recover(self) -> int:
        """A run has succeeded; how many before it had failed."""
        failures, self.failures, self.failing_since = self.failures, 0, None
        self.logged.clear()
        return failures

    def cannot_be_kept_alive(self, now: float) -> bool:
        if self.greenlet is not None and self.greenlet.dead:
            return True
        if self.failing_since is None or now - self.started >= RECOVERED_S:
            return False
        return now - self.failing_since >= GIVE_UP_S


class Supervisor:
    """The background greenlets of one process."""

    def __init__(
        self,
        metrics: Metrics | None = None,
        clock: Clock | None = None,
        sleep: Callable[[float], object] = gevent.sleep,
    ) -> None:
        """``clock`` and ``sleep`` are for tests. Without ``metrics`` errors are logged only."""
        self._errors = metrics.family(ERRORS) if metrics is not None else None
        self._clock = clock or SystemClock()
        self._sleep = sleep
        self._works: dict[Any, _Work] = {}
        self._log = structlog.get_logger()

    def repeat(
        self, name: str, run: Callable[[], object], interval_s: float | None = None
    ) -> "gevent.Greenlet[..., None]":
        """Call ``run`` again and again until the greenlet is stopped, ``interval_s`` seconds after it returned.

        Without an interval ``run`` must wait for its work itself. ``name`` is of a closed set: it is a metric's label.
        """
        return self._spawn(name, run, interval_s, forever=True)

    def complete(self, name: str, run: Callable[[], object]) -> "gevent.Greenlet[..., None]":
        """Call ``run`` until it returns once."""
        return self._spawn(name, run, None, forever=False)

    def stop(self, *greenlets: "gevent.Greenlet[..., None]") -> None:
        """End these, wherever they are."""
        for greenlet in greenlets:
            self._works.pop(greenlet, None)
        gevent.killall(list(greenlets))

    def failing(self) -> tuple[str, ...]:
        """The names of work that cannot be kept alive."""
        now = self._clock.monotonic()
        return tuple(sorted({it.name for it in self._works.values() if it.cannot_be_kept_alive(now)}))

    def names(self) -> tuple[str, ...]:
        """The names of all work under way."""
        return tuple(sorted({it.name for it in self._works.values()}))

    def _spawn(
        self, name: str, run: Callable[[], object], interval_s: float | None, forever: bool
    ) -> "gevent.Greenlet[..., None]":
        work = _Work(name, self._clock.monotonic())
        work.greenlet = greenlet = gevent.spawn(self._keep, work, run, interval_s, forever)
        self._works[greenlet] = work
        if not forever:
            greenlet.link(lambda ended: self._works.pop(ended, None))
        return greenlet

    def _keep(self, work: _Work, run: Callable[[], object], interval_s: float | None, forever: bool) -> None:
        while True:
            work.started = self._clock.monotonic()
            try:
                run()
            except (Exception, gevent.Timeout) as error:  # noqa: BLE001 - no error may end what runs for ever
                self._sleep(self._record(work, error))
                continue
            if work.failures:
                self._log.warning("background work goes on", work=work.name, failures=work.recover())
            if not forever:
                return
            if interval_s is not None:
                self._sleep(interval_s)

    def _record(self, work: _Work, error: BaseException) -> float:
        """Log and count a failed run; seconds to wait before the next."""
        now, kind = self._clock.monotonic(), type(error).__name__
        if now - work.started >= RECOVERED_S:
            work.recover()
        if work.failing_since is None:
            work.failing_since = now
        if kind not in work.logged:
            work.logged.add(kind)
            self._log.error("background work failed", work=work.name, error=kind, at=_place(error))
        if self._errors is not None:
            self._errors[work.name].inc()
        work.failures += 1
        delay = min(MAX_DELAY_S, FIRST_DELAY_S * 2.0 ** min(work.failures - 1, 16))
        # Replicas that fail together must not retry together.
        return delay * random.uniform(0.5, 1.0)


def _place(error: BaseException) -> str:
    """The innermost line of code that raised: a module and a line's number, never a value."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else f"{trace.tb_frame.f_globals.get('__name__', '')}:{trace.tb_lineno}"
