"""Health, metrics and traces, as features."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING
from uuid import uuid4

from knowalledge import __version__
from knowalledge.core.clock import Clock
from knowalledge.core.feature import Feature, Task
from knowalledge.core.health import Dependency
from knowalledge.core.metrics import Metrics
from knowalledge.core.trace_context import Attributes
from knowalledge.observability import tracing, web
from knowalledge.observability.logging import stderr
from knowalledge.observability.process import INTERVAL_S, ProcessMetrics
from knowalledge.observability.settings import TracingSettings
from knowalledge.observability.spans import SpanTracer, TargetInfo
from knowalledge.observability.telemetry import LogMetrics, SpanMetrics
from knowalledge.providers.registry import semconv_name
from knowalledge.providers.settings import TargetSettings

if TYPE_CHECKING:
    from knowalledge.observability.otlp import Exporter


def build_health(
    not_alive: Callable[[], tuple[str, ...]],
    not_ready: Callable[[], tuple[str, ...]],
    notes: Callable[[], tuple[str, ...]],
    dependencies: Callable[[], tuple[Dependency, ...]],
    refresh: Callable[[], None],
    render: Callable[[], bytes],
) -> Feature:
    """The routes for probes and Prometheus.

    ``not_alive`` gives the reasons to replace this process, ``not_ready`` those to send no requests here. ``refresh``
    sets the gauges before ``render`` gives all series in Prometheus' text format.
    """

    def metrics() -> bytes:
        refresh()
        return render()

    routes = web.blueprint(not_alive, not_ready, notes, dependencies, metrics)
    return Feature(blueprints=(routes,), operations=web.OPERATIONS)


def build_process(metrics: Metrics, clock: Clock) -> Feature:
    """Memory, open files and the hub's lag of each worker, for Prometheus."""
    return Feature(
        tasks=(Task("process.measure", INTERVAL_S, ProcessMetrics(metrics, clock).measure),),
        refresh_metrics=LogMetrics(metrics, lambda: stderr.dropped).refresh,
    )


def build_tracing(
    settings: TracingSettings,
    targets: Sequence[TargetSettings],
    new_id: Callable[[], str],
    clock: Clock,
    metrics: Metrics,
) -> Feature:
    """Spans of requests. Without ``tracing.endpoint`` nothing is in the way of any request."""
    counts = SpanMetrics(metrics)
    if not settings.endpoint:
        return Feature()
    exporter = make_exporter(settings, counts)
    infos = {it.name: TargetInfo(semconv_name(it.spec.provider), it.spec.model) for it in targets}
    tracer = SpanTracer(clock, settings.sample, infos, exporter.put)
    return Feature(
        middleware=lambda inner: tracing.Traced(inner, tracer, new_id),
        start=exporter.start,
        stop=exporter.close,
    )


def make_exporter(settings: TracingSettings, counts: SpanMetrics) -> "Exporter":
    """What sends spans to the collector."""
    from knowalledge.observability.otlp import Exporter  # noqa: PLC0415 - only who traces pays for the SDK

    resource: Attributes = {
        "service.name": "knowalledge",
        "service.version": __version__,
        "service.instance.id": uuid4().hex,
    }
    return Exporter(settings.endpoint, settings.timeout, resource, counts.spans)
