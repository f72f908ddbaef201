"""Metrics in Prometheus' client library: one registry for all capabilities, rendered over all workers."""

import os
from typing import Any

from gevent.monkey import get_original
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from knowalledge.core.metrics import Family, Metric, Series

# Each value has a lock, and a request adds to a dozen of them. Nothing under that lock waits, so the hub need not know
# of it; a lock that the hub knows costs more than the addition.
values.Lock = get_original("threading", "Lock")  # type: ignore[attr-defined]

# Names the folder in which the workers of one server share their values; unset: there is one worker.
FOLDER_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
_KINDS: dict[str, Any] = {"counter": Counter, "gauge": Gauge, "histogram": Histogram}
_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class PrometheusMetrics:
    """Implements ``Metrics``. ``registered`` are its metrics in order of registration."""

    def __init__(self) -> None:
        # The library decides this when it is imported, which may be before the server has set the variable.
        values.ValueClass = values.get_value_class()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        self.registered: list[Metric] = []

    def family(self, metric: Metric) -> Family:
        """Register a metric. Raises ValueError for a name that is taken."""
        extra: dict[str, Any] = {}
        if metric.kind == "histogram":
            extra["buckets"] = _SECONDS
        elif metric.kind == "gauge":
            extra["multiprocess_mode"] = "livesum" if metric.sum_over_workers else "mostrecent"
        made = _KINDS[metric.kind](
            metric.name, metric.description, metric.labels, registry=self._registry, **extra
        )
        self.registered.append(metric)
        return _SeriesByLabels(made)

    def totals(self, metric: Metric) -> dict[tuple[str, ...], float]:
        return {
            tuple(sample.labels[label] for label in metric.labels): sample.value
            for family in self._over_workers().collect()
            for sample in family.samples
            if sample.name == metric.name
        }

    def render(self) -> bytes:
        """All series in Prometheus' text format 0.0.4, over all workers."""
        return generate_latest(self._over_workers())

    def _over_workers(self) -> CollectorRegistry:
        if FOLDER_VARIABLE not in os.environ:
            return self._registry
        whole = CollectorRegistry()
        collect: Any = MultiProcessCollector
        collect(whole)
        return whole


def forget_worker(pid: int) -> None:
    """A worker has died: what it held is gone, what it counted stays."""
    mark_process_dead(pid)  # type: ignore[no-untyped-call]


class _SeriesByLabels(dict[str | tuple[str, ...], Series]):
    """The series of one metric, each looked up in the library once: that halves the cost of counting."""

    def __init__(self, metric: Any) -> None:
        super().__init__()
        self._metric = metric

    def __missing__(self, labels: str | tuple[str, ...]) -> Series:
        given = (labels,) if isinstance(labels, str) else labels
        try:
            series: Series = self._metric.labels(*given) if given else self._metric
        except OSError:  # the folder that the workers share is full: no request fails for that
            return _NOT_COUNTED
        self[labels] = series
        return series


class _NotCounted:
    """A series that cannot be kept now."""

    def inc(self, amount: float = 1) -> None: ...

    def set(self, value: float) -> None: ...

    def observe(self, amount: float) -> None: ...


_NOT_COUNTED = _NotCounted()
