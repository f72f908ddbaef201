"""What is written, at which level, and what once however often it happens."""

from collections.abc import Iterator

import pytest
import structlog
from structlog.testing import capture_logs

from knowalledge.core.context import Priority
from knowalledge.gateway.domain.answer import Usage
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.ports import Record
from knowalledge.gateway.telemetry import REQUESTS, UNCOUNTED, GatewayTelemetry
from knowalledge.observability.logging import configure
from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
from tests.support.doubles import ManualClock


def test_a_provider_that_does_not_count_is_written_of_once_a_target_and_counted_always() -> None:
    metrics = PrometheusMetrics()
    with capture_logs() as lines:
        telemetry = GatewayTelemetry(metrics)
        for target in "aaba":
            telemetry.record_uncounted(target)
    assert [line["target"] for line in lines] == ["a", "b"]
    assert metrics.totals(UNCOUNTED) == {("a",): 3, ("b",): 1}


def test_a_clock_of_redis_that_steps_back_is_written_of_once_a_step(clock: ManualClock) -> None:
    windows = {"t": (Window("rpm", Count.REQUESTS, 4, 60),)}
    mirror = MemoryQuotaStore(windows, QueueRules(), clock, auto_dispatch=False)
    shared = RedisQuotaStore(None, windows, QueueRules(), clock, "a", auto_dispatch=False)  # type: ignore[arg-type]
    with capture_logs() as lines:
        store = ReplicaQuotaStore(shared, mirror, windows, clock)
        for second in (5000, 5002, 5001.5, 1400, 1402):
            store._record_redis_clock(int(second * SECOND))
    assert [line["seconds"] for line in lines] == [3601]
    assert mirror.skew_us == int((1402 - clock.now()) * SECOND)


@pytest.fixture
def configured() -> Iterator[None]:
    """Whatever the log is told here, others find it as it was."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    ("level", "written"), [("info", ["info"]), ("debug", ["debug", "info"]), ("warning", [])]
)
def test_a_failure_is_written_at_info_and_an_answer_at_debug(level: str, written: list[str]) -> None:
    configure(level)
    metrics = PrometheusMetrics()
    with capture_logs() as lines:
        telemetry = GatewayTelemetry(metrics)
        for outcome in (Outcome.OK, Outcome.UNAVAILABLE):
            telemetry.record_request(Record("r", "m", "t", outcome, Priority.MEDIUM, 0.1, Usage()))
    assert [line["log_level"] for line in lines] == written
    assert sum(metrics.totals(REQUESTS).values()) == 2
