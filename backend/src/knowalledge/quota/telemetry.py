"""Metrics of quotas and their queues: gauges, set from the stores' own figures when they are read."""

from collections.abc import Sequence

from knowalledge.core.metrics import Metric, Metrics
from knowalledge.quota.domain.window import WindowStatus
from knowalledge.quota.ports import QueueStats

USED = Metric(
    "knowalledge_quota_used", "gauge", ("target", "window"), "What is charged or held in a window now."
)
LIMIT = Metric(
    "knowalledge_quota_limit",
    "gauge",
    ("target", "window"),
    "The limit of a window, as configured or learnt.",
)
RESERVED = Metric(
    "knowalledge_quota_reserved",
    "gauge",
    ("target", "window"),
    "The part of a window that running requests hold.",
)
RESETS = Metric(
    "knowalledge_quota_resets_seconds",
    "gauge",
    ("target", "window"),
    "Time until all that a window counts now has left it, in seconds.",
)
DEGRADED = Metric(
    "knowalledge_quota_degraded",
    "gauge",
    (),
    "1 while this replica spends its share of the quota alone because Redis is unavailable.",
)
LOSSES = Metric(
    "knowalledge_redis_losses_total",
    "counter",
    ("reason",),
    "Reasons for which the quota went on without Redis: an error's class and, of a reply, its first word.",
)
DEPTH = Metric("knowalledge_queue_depth", "gauge", ("target", "priority"), "Requests in the queue now.")
ETA = Metric(
    "knowalledge_queue_eta_seconds",
    "gauge",
    ("target", "priority"),
    "Expected wait of a request that is queued now, in seconds.",
)


class QuotaMetrics:
    """The gauges of one process."""

    def __init__(self, metrics: Metrics) -> None:
        self._used, self._limit = metrics.family(USED), metrics.family(LIMIT)
        self._reserved, self._resets = metrics.family(RESERVED), metrics.family(RESETS)
        self._degraded, self._losses = metrics.family(DEGRADED), metrics.family(LOSSES)
        self._depth, self._eta = metrics.family(DEPTH), metrics.family(ETA)

    def windows(self, target: str, status: Sequence[WindowStatus]) -> None:
        """The state of a target's windows."""
        for window in status:
            labels = (target, window.window.name)
            self._used[labels].set(window.used)
            self._reserved[labels].set(window.held)
            self._limit[labels].set(window.limit)
            self._resets[labels].set(window.resets_s)

    def queue(self, target: str, stats: QueueStats) -> None:
        """The state of one priority of a target's queue."""
        labels = (target, stats.level.label)
        self._depth[labels].set(stats.waiting)
        self._eta[labels].set(stats.eta_s)

    def loss(self, reason: str) -> None:
        """Redis is gone, for this reason."""
        self._losses[reason].inc()

    def degraded(self, degraded: bool) -> None:
        """Whether this replica decides by its share alone."""
        self._degraded[()].set(degraded)
