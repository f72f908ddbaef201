"""Metrics of observability itself."""

from collections.abc import Callable

from knowalledge.core.metrics import Metric, Metrics

SPANS = Metric(
    "knowalledge_trace_spans_total",
    "counter",
    ("result",),
    "Spans that were sent, dropped while the collector was unavailable, or rejected by it.",
)


LOG_LINES = Metric(
    "knowalledge_log_lines_dropped_total",
    "counter",
    (),
    "Log lines that standard error did not take, because it was full or closed.",
)


class LogMetrics:
    """Counts the log lines that were lost, when the metrics are read."""

    def __init__(self, metrics: Metrics, dropped: Callable[[], int]) -> None:
        self._lines = metrics.family(LOG_LINES)[()]
        self._dropped = dropped
        self._counted = 0

    def refresh(self) -> None:
        dropped = self._dropped()
        self._lines.inc(dropped - self._counted)
        self._counted = dropped


class SpanMetrics:
    """Counts spans by what became of them."""

    def __init__(self, metrics: Metrics) -> None:
        self._spans = metrics.family(SPANS)

    def spans(self, result: str, number: int) -> None:
        """``result`` is sent, dropped or rejected."""
        self._spans[result].inc(number)
