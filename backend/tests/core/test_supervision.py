"""Background work survives every error; what cannot be kept alive is named."""

from collections.abc import Callable

import gevent
import pytest
from structlog.testing import capture_logs

from knowalledge.core.supervision import ERRORS, GIVE_UP_S, MAX_DELAY_S, RECOVERED_S, Supervisor
from knowalledge.observability.metrics import PrometheusMetrics
from tests.support.doubles import ManualClock


class Runs:
    """Work whose runs fail as a list says; after the list it succeeds, and takes ``length_s``."""

    def __init__(self, clock: ManualClock, *errors: BaseException, length_s: float = 0.0) -> None:
        self.clock, self.errors, self.length_s = clock, list(errors), length_s
        self.count = 0
        self.pauses: list[float] = []

    def __call__(self) -> None:
        self.count += 1
        self.clock.time += self.length_s
        if self.errors:
            raise self.errors.pop(0)

    def sleep(self, seconds: float) -> None:
        self.pauses.append(seconds)
        self.clock.time += seconds
        gevent.sleep(0)


def until(true: Callable[[], object]) -> None:
    with gevent.Timeout(5):
        while not true():
            gevent.sleep(0)


@pytest.mark.parametrize("error", [ValueError("secret"), KeyError(), RecursionError(), gevent.Timeout(1)])
def test_any_error_is_logged_once_with_its_class_and_counted_and_the_work_goes_on(
    error: BaseException, clock: ManualClock
) -> None:
    runs, metrics = Runs(clock, error, error, error), PrometheusMetrics()
    supervisor = Supervisor(metrics, clock, runs.sleep)
    with capture_logs() as lines:
        greenlet = supervisor.repeat("listen", runs, 1.0)
        until(lambda: runs.count == 5)
    failed = [it for it in lines if it["event"] == "background work failed"]
    assert [(it["work"], it["error"]) for it in failed] == [("listen", type(error).__name__)]
    assert [it["failures"] for it in lines if it["event"] == "background work goes on"] == [3]
    assert "secret" not in repr(lines)
    assert metrics.totals(ERRORS) == {("listen",): 3.0}
    supervisor.stop(greenlet)
    assert supervisor.names() == ()


def test_the_pauses_between_failed_runs_grow_to_a_bound_and_begin_anew_after_a_success(
    clock: ManualClock,
) -> None:
    runs = Runs(clock, *[ValueError() for _ in range(20)])
    supervisor = Supervisor(None, clock, runs.sleep)
    greenlet = supervisor.repeat("listen", runs, 0.0)
    until(lambda: not runs.errors and runs.pauses[-1] == 0.0)
    failed = runs.pauses[:20]
    assert all(MAX_DELAY_S / 2 <= pause <= MAX_DELAY_S for pause in failed[-10:])
    assert max(failed[:2]) < 0.5
    runs.errors.append(ValueError())
    before = len(runs.pauses)
    until(lambda: any(runs.pauses[before:]))
    assert max(runs.pauses[before:]) < 0.5
    supervisor.stop(greenlet)


def test_work_that_fails_in_every_run_for_a_minute_is_named_until_it_succeeds(clock: ManualClock) -> None:
    runs = Runs(clock, *[ValueError() for _ in range(1000)])
    supervisor = Supervisor(None, clock, runs.sleep)
    greenlet = supervisor.repeat("write", runs, 0.0)
    began = clock.time
    until(lambda: clock.time - began > GIVE_UP_S / 2)
    assert supervisor.failing() == ()
    until(lambda: clock.time - began > GIVE_UP_S + MAX_DELAY_S)
    assert supervisor.failing() == ("write",)
    runs.errors.clear()
    until(lambda: runs.pauses[-1] == 0.0)
    assert supervisor.failing() == ()
    supervisor.stop(greenlet)


def test_a_long_run_before_a_failure_is_no_row_of_failures(clock: ManualClock) -> None:
    runs = Runs(clock, *[ValueError() for _ in range(100)], length_s=RECOVERED_S)
    supervisor = Supervisor(None, clock, runs.sleep)
    greenlet = supervisor.repeat("listen", runs)
    until(lambda: len(runs.pauses) == 50)
    assert supervisor.failing() == ()
    assert max(runs.pauses) < 0.5
    supervisor.stop(greenlet)


def test_repeated_work_that_was_killed_is_named_and_stopped_work_is_not(clock: ManualClock) -> None:
    supervisor = Supervisor(None, clock)
    killed, stopped = (supervisor.repeat(name, lambda: gevent.sleep(60)) for name in ("killed", "stopped"))
    gevent.sleep(0)
    killed.kill()
    supervisor.stop(stopped)
    assert supervisor.failing() == ("killed",)


def test_work_to_complete_is_tried_until_it_returns_once(clock: ManualClock) -> None:
    runs = Runs(clock, ValueError(), TypeError())
    supervisor = Supervisor(None, clock, runs.sleep)
    supervisor.complete("pump", runs).join()
    gevent.sleep(0)
    assert runs.count == 3
    assert (supervisor.names(), supervisor.failing()) == ((), ())
