"""What operators read of quotas and queues: JSON of the stores' own figures; the gauges are set from the same ones."""

from collections.abc import Callable

from msgspec import Struct

from knowalledge.quota.domain.queue import QueueOutcome, TenantQueueStats
from knowalledge.quota.ports import QueueStats as LevelQueueStats
from knowalledge.quota.ports import QuotaStore
from knowalledge.quota.telemetry import QuotaMetrics


class WindowStats(Struct, frozen=True):
    """One window of a target's quota; ``reserved`` is the part of ``used`` that running requests hold."""

    window: str
    count: str
    limit: int
    learnt: bool
    used: int
    reserved: int
    resets_in_s: float


class Drift(Struct, frozen=True):
    """Tokens by which the truth was more than the estimates, summed; below zero it was less."""

    input_tokens: int
    output_tokens: int


class TargetQuota(Struct, frozen=True):
    """The windows of a target, and what has happened to its quota over all replicas."""

    windows: tuple[WindowStats, ...]
    settled: int
    released: int
    refused: int
    provider_429s: int
    drift: Drift


class QuotaStats(Struct, frozen=True):
    """What is used and left, by target; ``degraded`` while this replica spends its part of it alone."""

    degraded: bool
    targets: dict[str, TargetQuota]


class TenantStats(Struct, frozen=True):
    """A tenant at one level: who waits, when a newcomer's turn would be, and how those before them left."""

    waiting: int
    oldest_s: float
    eta_s: float
    left: dict[str, int]


class LevelStats(TenantStats, frozen=True):
    """The same of a whole level, and of up to a hundred of its tenants, those that wait first."""

    tenants: dict[str, TenantStats]


class QueueStats(Struct, frozen=True):
    """The waiting rooms, by target and level."""

    targets: dict[str, dict[str, LevelStats]]


class Statistics(Struct, frozen=True):
    """Reads the store of all targets, and sets the gauges."""

    store: QuotaStore
    targets: tuple[str, ...]
    degraded: Callable[[], bool]
    metrics: QuotaMetrics

    def quota(self) -> QuotaStats:
        """Every window of every target."""
        degraded = self.degraded()
        self.metrics.degraded(degraded)
        return QuotaStats(degraded, {target: self._target(target) for target in self.targets})

    def _target(self, target: str) -> TargetQuota:
        status = self.store.window_status(target)
        self.metrics.windows(target, status)
        totals = self.store.totals(target)
        windows = tuple(
            WindowStats(
                it.window.name,
                it.window.count.value,
                it.limit,
                it.window.learn,
                it.used,
                it.held,
                round(it.resets_s, 1),
            )
            for it in status
        )
        drift = Drift(totals.drift_input, totals.drift_output)
        return TargetQuota(windows, totals.settled, totals.released, totals.refused, totals.rejected, drift)

    def queue(self) -> QueueStats:
        """Every level of every target's queue."""
        return QueueStats({target: self._levels(target) for target in self.targets})

    def _levels(self, target: str) -> dict[str, LevelStats]:
        levels = {}
        for level in self.store.queue_stats(target):
            self.metrics.queue(target, level)
            tenants = {name: TenantStats(*_figures(it)) for name, it in level.tenants.items()}
            levels[level.level.label] = LevelStats(*_figures(level), tenants)
        return levels

    def refresh_metrics(self) -> None:
        """Set every gauge."""
        self.quota()
        self.queue()


def _figures(stats: TenantQueueStats | LevelQueueStats) -> tuple[int, float, float, dict[str, int]]:
    left = {outcome.value: stats.left.get(outcome, 0) for outcome in QueueOutcome}
    return stats.waiting, round(stats.oldest_s, 2), round(stats.eta_s, 2), left
