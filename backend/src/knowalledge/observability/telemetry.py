"""Metrics of observability itself."""

from knowalledge.core.metrics import Metric, Metrics

SPANS = Metric(
    "knowalledge_trace_spans_total",
    "counter",
    ("result",),
    "Spans that were sent, dropped while the collector was unavailable, or rejected by it.",
)


class SpanMetrics:
    """Counts spans by what became of them."""

    def __init__(self, metrics: Metrics) -> None:
        self._spans = metrics.family(SPANS)

    def spans(self, result: str, number: int) -> None:
        """``result`` is sent, dropped or rejected."""
        self._spans[result].inc(number)
