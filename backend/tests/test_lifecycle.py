"""How the features of a process start, drain and stop."""

from collections.abc import Callable

import gevent
from structlog.testing import capture_logs

from knowalledge.core.feature import Feature, Task
from knowalledge.core.supervision import Supervisor
from knowalledge.lifecycle import Lifecycle


def feature(name: str, calls: list[str]) -> Feature:
    def note(hook: str) -> Callable[[], None]:
        return lambda: calls.append(f"{hook} {name}")

    return Feature(
        start=note("start"),
        drain=note("drain"),
        stop=note("stop"),
        refresh_metrics=note("refresh"),
        not_ready=lambda: (f"{name} is warming up",),
        notes=lambda: (f"{name} is degraded",),
    )


def test_features_start_in_their_order_and_stop_in_the_reverse_one() -> None:
    calls: list[str] = []
    lifecycle = Lifecycle([feature("a", calls), feature("b", calls)], Supervisor())
    lifecycle.start()
    lifecycle.drain()
    lifecycle.stop()
    assert calls == ["start a", "start b", "drain a", "drain b", "stop b", "stop a"]


def test_operators_read_what_every_feature_says() -> None:
    calls: list[str] = []
    lifecycle = Lifecycle([feature("a", calls), Feature(), feature("b", calls)], Supervisor())
    assert lifecycle.not_ready() == ("a is warming up", "b is warming up")
    assert lifecycle.notes() == ("a is degraded", "b is degraded")
    lifecycle.refresh_metrics()
    assert calls == ["refresh a", "refresh b"]


def test_a_process_that_drains_is_not_ready() -> None:
    lifecycle = Lifecycle([Feature()], Supervisor())
    assert lifecycle.not_ready() == ()
    lifecycle.drain()
    assert lifecycle.not_ready() == ("shutting down",)


def test_tasks_run_between_start_and_stop_and_a_failed_run_ends_none() -> None:
    runs: list[int] = []

    def run() -> None:
        runs.append(len(runs))
        if len(runs) == 1:
            raise ValueError("the first one fails")

    supervisor = Supervisor(sleep=lambda _: gevent.sleep(0))
    lifecycle = Lifecycle([Feature(tasks=(Task("count", 0.0, run),))], supervisor)
    gevent.sleep(0)
    assert runs == []
    with capture_logs() as lines:
        lifecycle.start()
        while len(runs) < 3:
            gevent.sleep(0)
        lifecycle.stop()
    assert [it["error"] for it in lines if it["event"] == "background work failed"] == ["ValueError"]
    done = len(runs)
    gevent.sleep(0.01)
    assert len(runs) == done
