"""What a worker tells of its memory, its files and its event loop."""

from contextlib import ExitStack
from pathlib import Path

from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.observability.process import HUB_LAG, INTERVAL_S, MEMORY, OPEN_FILES, ProcessMetrics
from tests.support.doubles import ManualClock


def lines(metrics: PrometheusMetrics) -> dict[str, float]:
    rendered = metrics.render().decode().splitlines()
    return {it.rpartition(" ")[0]: float(it.rpartition(" ")[2]) for it in rendered if not it.startswith("#")}


def test_memory_and_files_are_those_of_this_process() -> None:
    metrics = PrometheusMetrics()
    process = ProcessMetrics(metrics, ManualClock())
    process.measure()
    before = lines(metrics)
    assert before[MEMORY.name] > 10_000_000
    with ExitStack() as files:
        for _ in range(20):
            files.enter_context(Path("/dev/null").open())
        process.measure()
    assert lines(metrics)[OPEN_FILES.name] == before[OPEN_FILES.name] + 20


def test_a_hub_that_was_held_is_late_by_as_much() -> None:
    metrics, clock = PrometheusMetrics(), ManualClock()
    process = ProcessMetrics(metrics, clock)
    process.measure()
    assert lines(metrics)[f"{HUB_LAG.name}_count"] == 0
    clock.sleep(INTERVAL_S)
    process.measure()
    assert lines(metrics)[f"{HUB_LAG.name}_sum"] < 0.001
    clock.sleep(INTERVAL_S + 0.3)
    process.measure()
    seen = lines(metrics)
    assert seen[f"{HUB_LAG.name}_count"] == 2
    assert abs(seen[f"{HUB_LAG.name}_sum"] - 0.3) < 0.001


def test_without_proc_the_lag_is_still_measured(tmp_path: Path) -> None:
    metrics, clock = PrometheusMetrics(), ManualClock()
    process = ProcessMetrics(metrics, clock, tmp_path / "none")
    process.measure()
    clock.sleep(INTERVAL_S)
    process.measure()
    assert lines(metrics)[f"{HUB_LAG.name}_count"] == 1
    assert lines(metrics).get(MEMORY.name, 0) == 0
