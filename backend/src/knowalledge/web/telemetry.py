"""Metrics of HTTP."""

from knowalledge.core.metrics import Metric, Metrics

RESPONSES = Metric(
    "knowalledge_http_responses_total",
    "counter",
    ("route", "status"),
    "HTTP responses, by route and status.",
)


class HttpMetrics:
    """Implements ``Observer``."""

    def __init__(self, metrics: Metrics) -> None:
        self._responses = metrics.family(RESPONSES)

    def http(self, route: str, status: int) -> None:
        """One HTTP answer; ``route`` is the rule that matched, never the path that was asked for."""
        self._responses[route, str(status)].inc()
