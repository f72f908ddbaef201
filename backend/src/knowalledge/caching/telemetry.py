"""Metrics of the cache layers."""

from knowalledge.caching.domain import CacheEntry
from knowalledge.caching.ports import LayerSize
from knowalledge.core.metrics import Metric, Metrics

LOOKUPS = Metric(
    "knowalledge_cache_lookups_total",
    "counter",
    ("layer", "result"),
    "Lookups in a cache layer, and answers that were stale or shared with another request (layer flight).",
)
SAVED_TOKENS = Metric(
    "knowalledge_cache_saved_tokens_total",
    "counter",
    ("layer", "model", "kind"),
    "Tokens that were not spent because a layer answered; flight: another request's answer, or a stale one.",
)
# Of a worker's own memory, so the workers' values add up.
ENTRIES = Metric(
    "knowalledge_cache_entries",
    "gauge",
    ("layer",),
    "Entries in a layer of this replica.",
    sum_over_workers=True,
)
BYTES = Metric(
    "knowalledge_cache_bytes", "gauge", ("layer",), "Bytes in a layer of this replica.", sum_over_workers=True
)
EVICTIONS = Metric(
    "knowalledge_cache_evictions",
    "gauge",
    ("layer",),
    "Entries that a layer of this replica evicted to make room.",
    sum_over_workers=True,
)
SHARED_ENTRIES = Metric(
    "knowalledge_cache_shared_entries", "gauge", (), "Entries in Redis, shared by all replicas."
)
SHARED_BYTES = Metric("knowalledge_cache_shared_bytes", "gauge", (), "Bytes of the entries in Redis.")
SHARED_EVICTIONS = Metric(
    "knowalledge_cache_shared_evictions",
    "gauge",
    (),
    "Entries evicted from Redis to make room, since its data began.",
)


class CacheMetrics:
    """Implements ``CacheTelemetry``."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._lookups, self._saved_tokens = metrics.family(LOOKUPS), metrics.family(SAVED_TOKENS)
        self._entries, self._bytes = metrics.family(ENTRIES), metrics.family(BYTES)
        self._evictions = metrics.family(EVICTIONS)
        self._shared_entries, self._shared_bytes = (
            metrics.family(SHARED_ENTRIES),
            metrics.family(SHARED_BYTES),
        )
        self._shared_evictions = metrics.family(SHARED_EVICTIONS)

    def cached(self, layer: str, result: str, entry: CacheEntry | None = None) -> None:
        self._lookups[layer, result].inc()
        if entry is not None and entry.model:
            for kind, tokens in (("input", entry.input_tokens), ("output", entry.output_tokens)):
                if tokens:
                    self._saved_tokens[layer, entry.model, kind].inc(tokens)

    def size(self, layer: str, size: LayerSize) -> None:
        """What a layer in this worker holds now."""
        self._entries[layer].set(size.entries)
        self._bytes[layer].set(size.bytes)
        self._evictions[layer].set(size.evictions)

    def shared_size(self, size: LayerSize) -> None:
        """What the layer holds that all replicas share."""
        self._shared_entries[()].set(size.entries)
        self._shared_bytes[()].set(size.bytes)
        self._shared_evictions[()].set(size.evictions)

    def lookups(self) -> dict[tuple[str, ...], float]:
        """Lookups by layer and result."""
        return self._metrics.totals(LOOKUPS)

    def saved_tokens(self) -> dict[tuple[str, ...], float]:
        """Tokens by layer, model and kind."""
        return self._metrics.totals(SAVED_TOKENS)

    def total_size(self, layer: str) -> LayerSize:
        """What the workers hold in this layer, together."""
        entries, size, evictions = (
            int(self._metrics.totals(it).get((layer,), 0)) for it in (ENTRIES, BYTES, EVICTIONS)
        )
        return LayerSize(entries, size, evictions)
