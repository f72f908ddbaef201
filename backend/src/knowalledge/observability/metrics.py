"""Every metric, once: its name, its labels and a sentence. The docs are checked against this file.

Label sets are closed or bounded by the configuration: models, targets, levels and outcomes, never what a caller sent.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from gevent.monkey import get_original
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values
from prometheus_client.multiprocess import MultiProcessCollector

from knowalledge.caching.domain import CacheEntry
from knowalledge.caching.ports import LayerSize
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.ports import Record
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.window import TokenCost, WindowStatus
from knowalledge.quota.ports import QueueStats

# Each value has a lock, and a request adds to a dozen of them. What is done under one never waits, so the hub need not
# know of it; one that it knows of costs more than the addition.
values.Lock = get_original("threading", "Lock")  # type: ignore[attr-defined]

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)

METRICS: tuple[tuple[str, str, tuple[str, ...], str], ...] = (
    (
        "knowalledge_requests_total",
        "counter",
        ("model", "outcome", "priority"),
        "Requests by how they ended.",
    ),
    ("knowalledge_request_seconds", "histogram", ("model",), "Time from a request's arrival to its end."),
    (
        "knowalledge_first_token_seconds",
        "histogram",
        ("model",),
        "Time from a stream's arrival to its first token.",
    ),
    (
        "knowalledge_upstream_calls_total",
        "counter",
        ("target", "outcome"),
        "Calls to providers by how they ended.",
    ),
    ("knowalledge_upstream_seconds", "histogram", ("target",), "Time that a provider took for a call."),
    ("knowalledge_tokens_total", "counter", ("model", "kind"), "Tokens as the provider counted them."),
    ("knowalledge_http_responses_total", "counter", ("route", "status"), "HTTP answers by route and status."),
    (
        "knowalledge_cache_lookups_total",
        "counter",
        ("layer", "result"),
        "Looks at a cache layer (memory, redis), and answers that a flight shared or that were stale.",
    ),
    (
        "knowalledge_cache_saved_tokens_total",
        "counter",
        ("layer", "model", "kind"),
        "Tokens that were not spent because a layer answered: memory, redis, or flight (another's, or a stale answer).",
    ),
    ("knowalledge_cache_entries", "gauge", ("layer",), "Entries that a layer holds."),
    ("knowalledge_cache_bytes", "gauge", ("layer",), "Bytes that a layer holds."),
    ("knowalledge_cache_evictions", "gauge", ("layer",), "Entries that a layer let go for want of room."),
    ("knowalledge_cache_shared_entries", "gauge", (), "Entries in Redis, the same for all replicas."),
    ("knowalledge_cache_shared_bytes", "gauge", (), "Bytes that they take there."),
    (
        "knowalledge_cache_shared_evictions",
        "gauge",
        (),
        "Entries that Redis let go for want of room, since it began.",
    ),
    ("knowalledge_quota_used", "gauge", ("target", "window"), "What of a window is charged or held now."),
    (
        "knowalledge_quota_limit",
        "gauge",
        ("target", "window"),
        "What a window allows: its own limit, or what was learnt of it.",
    ),
    (
        "knowalledge_quota_reserved",
        "gauge",
        ("target", "window"),
        "What of a window is held for answers that are not complete.",
    ),
    (
        "knowalledge_quota_resets_seconds",
        "gauge",
        ("target", "window"),
        "Time until everything that a window counts now is out of it.",
    ),
    (
        "knowalledge_quota_refused_total",
        "counter",
        ("target", "reason"),
        "Requests to which a target's quota gave neither a grant nor a place.",
    ),
    ("knowalledge_quota_settled_total", "counter", ("target",), "Reservations settled by what was used."),
    (
        "knowalledge_estimate_error_tokens_total",
        "counter",
        ("target", "kind", "direction"),
        "Tokens by which estimates were over or under the truth.",
    ),
    (
        "knowalledge_uncounted_answers_total",
        "counter",
        ("target",),
        "Answers whose tokens the provider did not count, or counted absurdly, so that the estimate stands.",
    ),
    (
        "knowalledge_quota_degraded",
        "gauge",
        (),
        "1 while this replica spends its part of the quota alone because Redis is gone.",
    ),
    (
        "knowalledge_queue_wait_seconds",
        "histogram",
        ("priority",),
        "Time that requests spent in the waiting room, of those that were in it.",
    ),
    (
        "knowalledge_queue_left_total",
        "counter",
        ("priority", "ending"),
        "Waiters by how they left the waiting room.",
    ),
    ("knowalledge_queue_depth", "gauge", ("target", "priority"), "Requests waiting for quota now."),
    ("knowalledge_queue_eta_seconds", "gauge", ("target", "priority"), "A newcomer's time to its turn."),
    (
        "knowalledge_trace_spans_total",
        "counter",
        ("result",),
        "Spans that were sent, dropped for want of room while their store was away, or rejected by it.",
    ),
)


class Telemetry:
    """Implements the ``Telemetry`` port on Prometheus; label children are cached, which halves the cost."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        kinds: dict[str, Callable[..., Any]] = {"counter": Counter, "histogram": Histogram, "gauge": Gauge}
        self._metrics: dict[str, Any] = {}
        for name, kind, labels, why in METRICS:
            extra: dict[str, Any] = {}
            if kind == "histogram":
                extra["buckets"] = _SECONDS
            if kind == "gauge":
                # A worker's own memory adds up over workers; all else they see alike.
                extra["multiprocess_mode"] = "livesum" if labels == ("layer",) else "mostrecent"
            self._metrics[name] = kinds[kind](name, why, labels, registry=self._registry, **extra)
        self._children: dict[tuple[str, ...], Any] = {}

    def _child(self, name: str, *labels: str) -> Any:
        key = (name, *labels)
        child = self._children.get(key)
        if child is None:
            metric = self._metrics[name]
            child = self._children[key] = metric.labels(*labels) if labels else metric
        return child

    def request(self, record: Record) -> None:
        model = record.model
        self._child("knowalledge_requests_total", model, record.outcome, record.priority.label).inc()
        self._child("knowalledge_request_seconds", model).observe(record.seconds)
        if record.first_token_s is not None:
            self._child("knowalledge_first_token_seconds", model).observe(record.first_token_s)
        if record.ending is not None:
            self._child("knowalledge_queue_left_total", record.priority.label, record.ending).inc()
            self._child("knowalledge_queue_wait_seconds", record.priority.label).observe(record.waited_s)
        usage = record.usage
        for kind, tokens in (("input", usage.input), ("output", usage.output), ("thinking", usage.thinking)):
            if tokens:
                self._child("knowalledge_tokens_total", model, kind).inc(tokens)

    def upstream(self, target: str, outcome: Outcome, seconds: float) -> None:
        self._child("knowalledge_upstream_calls_total", target, outcome).inc()
        self._child("knowalledge_upstream_seconds", target).observe(seconds)

    def cached(self, layer: str, result: str, entry: CacheEntry | None = None) -> None:
        self._child("knowalledge_cache_lookups_total", layer, result).inc()
        if entry is not None and entry.model:
            for kind, tokens in (("input", entry.input_tokens), ("output", entry.output_tokens)):
                if tokens:
                    self._child("knowalledge_cache_saved_tokens_total", layer, entry.model, kind).inc(tokens)

    def cache_size(self, layer: str, size: LayerSize) -> None:
        """What a layer of this worker holds now."""
        self._child("knowalledge_cache_entries", layer).set(size.entries)
        self._child("knowalledge_cache_bytes", layer).set(size.bytes)
        self._child("knowalledge_cache_evictions", layer).set(size.evictions)

    def shared_size(self, size: LayerSize) -> None:
        """What the layer holds that all replicas share."""
        self._child("knowalledge_cache_shared_entries").set(size.entries)
        self._child("knowalledge_cache_shared_bytes").set(size.bytes)
        self._child("knowalledge_cache_shared_evictions").set(size.evictions)

    def totals(self, name: str) -> dict[tuple[str, ...], float]:
        """A counter's or gauge's values by its labels, over every worker."""
        labels = next(found for known, _, found, _ in METRICS if known == name)
        return {
            tuple(sample.labels[label] for label in labels): sample.value
            for family in self._whole().collect()
            for sample in family.samples
            if sample.name == name
        }

    def refused(self, target: str, reason: RefusalReason) -> None:
        self._child("knowalledge_quota_refused_total", target, reason).inc()

    def settled(self, target: str, estimate: TokenCost, true: TokenCost) -> None:
        self._child("knowalledge_quota_settled_total", target).inc()
        for kind, less in (("input", estimate.input - true.input), ("output", estimate.output - true.output)):
            if less:
                direction = "over" if less > 0 else "under"
                self._child("knowalledge_estimate_error_tokens_total", target, kind, direction).inc(abs(less))

    def uncounted(self, target: str) -> None:
        self._child("knowalledge_uncounted_answers_total", target).inc()

    def spans(self, result: str, number: int) -> None:
        """Spans that came to the end of their way."""
        self._child("knowalledge_trace_spans_total", result).inc(number)

    def degraded(self, alone: bool) -> None:
        """Whether the shared quota cannot be asked."""
        self._child("knowalledge_quota_degraded").set(alone)

    def http(self, route: str, status: int) -> None:
        """One HTTP answer; ``route`` is the rule that matched, never the path that was asked for."""
        self._child("knowalledge_http_responses_total", route, str(status)).inc()

    def quota(self, target: str, levels: Sequence[WindowStatus]) -> None:
        """The state of a target's windows."""
        for it in levels:
            window = it.window.name
            self._child("knowalledge_quota_used", target, window).set(it.used)
            self._child("knowalledge_quota_reserved", target, window).set(it.held)
            self._child("knowalledge_quota_limit", target, window).set(it.limit)
            self._child("knowalledge_quota_resets_seconds", target, window).set(it.resets_s)

    def queue(self, target: str, depth: QueueStats) -> None:
        """The state of one level of a waiting room."""
        self._child("knowalledge_queue_depth", target, depth.level.label).set(depth.waiting)
        self._child("knowalledge_queue_eta_seconds", target, depth.level.label).set(depth.eta_s)

    def render(self) -> bytes:
        """All series in Prometheus' text format, over every worker."""
        return generate_latest(self._whole())

    def _whole(self) -> CollectorRegistry:
        if "PROMETHEUS_MULTIPROC_DIR" not in os.environ:
            return self._registry
        whole = CollectorRegistry()
        collect: Any = MultiProcessCollector
        collect(whole)
        return whole
