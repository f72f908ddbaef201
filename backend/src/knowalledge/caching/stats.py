"""What operators read of the caches: what each layer did, what it holds, what it saved."""

from collections.abc import Callable, Mapping

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.caching.layers import Layers
from knowalledge.caching.telemetry import CacheMetrics

# The most popular questions that are listed.
MAX_POPULAR = 20


class Saved(Struct, frozen=True):
    """Tokens that were not spent, and their price in USD where prices are set."""

    input_tokens: int
    output_tokens: int
    usd: float | None


class LayerStats(Struct, frozen=True):
    """What one layer did since the start, over all workers of this replica, and what it holds now.

    A hit of ``browser`` is a 304; ``redis`` holds what all replicas share; ``flight`` counts answers that another
    request's run produced, and stale ones that were served because no fresh one could be had. ``saved`` is null for
    ``browser``: a 304 saves the transfer only; its tokens count for the layer that held the answer.
    """

    hits: int = 0
    misses: int = 0
    stale: int = 0
    shared: int = 0
    entries: int = 0
    bytes: int = 0
    evictions: int = 0
    unreadable: int = 0  # entries that were corrupt or of another version
    up: bool = True
    saved: Saved | None = None


class CacheStats(Struct, frozen=True):
    """The caches of this replica. ``saved`` is the sum over the layers; ``popular`` are the questions kept warm."""

    hits: int
    misses: int
    hit_rate: float
    shared: int
    stale: int
    layers: dict[str, LayerStats]
    saved: Saved
    popular: tuple[str, ...]


class Statistics(Struct, frozen=True):
    """Reads the layers and the metrics.

    ``prices``: USD per million tokens, input and output, by model. ``popular``: the paths of the questions that are
    kept warm, the most popular first. ``unreadable``: entries of the shared layer that could not be read.
    """

    layers: Layers
    metrics: CacheMetrics
    prices: Mapping[str, tuple[float, float]]
    popular: Callable[[], tuple[str, ...]]
    unreadable: Callable[[], int]

    def __call__(self) -> CacheStats:
        self.note_memory()
        lookups, saved_tokens = self.metrics.lookups(), self.metrics.saved_tokens()

        def layer_stats(layer: str) -> LayerStats:
            hits, misses, stale, shared = (
                int(lookups.get((layer, result), 0)) for result in ("hit", "miss", "stale", "shared")
            )
            own = {labels: value for labels, value in saved_tokens.items() if labels[0] == layer}
            return LayerStats(hits, misses, stale, shared, saved=self._saved(own))

        size = self.metrics.total_size("memory")
        memory = replace(
            layer_stats("memory"), entries=size.entries, bytes=size.bytes, evictions=size.evictions
        )
        flight = layer_stats("flight")
        layers = {
            "browser": replace(layer_stats("browser"), saved=None),
            "memory": memory,
            "flight": flight,
        }
        hits = memory.hits
        for layer in self.layers.layers[1:]:
            size = layer.cache.size()
            layers[layer.name] = replace(
                layer_stats(layer.name),
                entries=size.entries,
                bytes=size.bytes,
                evictions=size.evictions,
                unreadable=self.unreadable() if layer.cache is self.layers.shared else 0,
                up=layer.cache.up,
            )
            hits += layers[layer.name].hits
        lookups_total = memory.hits + memory.misses + memory.stale
        return CacheStats(
            hits=hits,
            misses=lookups_total - hits,
            hit_rate=round(hits / lookups_total, 4) if lookups_total else 0.0,
            shared=flight.shared,
            stale=flight.stale,
            layers=layers,
            saved=self._saved(saved_tokens),
            popular=self.popular()[:MAX_POPULAR],
        )

    def _saved(self, saved_tokens: Mapping[tuple[str, ...], float]) -> Saved:
        """Sums over tokens by layer, model and kind. The price is None if no model has one."""
        tokens = {"input": 0.0, "output": 0.0}
        usd = 0.0
        for (_, model, kind), number in saved_tokens.items():
            tokens[kind] += number
            if model in self.prices:
                usd += number * self.prices[model][kind == "output"] / 1e6
        return Saved(int(tokens["input"]), int(tokens["output"]), round(usd, 6) if self.prices else None)

    def note_memory(self) -> None:
        """Set the gauges of this worker's memory."""
        self.metrics.size("memory", self.layers.memory.size())

    def refresh_metrics(self) -> None:
        """Set every gauge; those of a shared layer that is unavailable keep their values."""
        self.note_memory()
        shared = self.layers.shared
        if shared is not None:
            size = shared.size()
            if shared.up:
                self.metrics.shared_size(size)
