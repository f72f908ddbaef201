"""The cache layers of this process as one cache, the fastest layer first.

The last layer is the authority: its generations decide what was invalidated, and what it returns is copied into the
layers before it. Every other layer answers alone only for ``Lifetimes.memory_s`` before the authority is asked again.
"""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.caching.domain import CacheEntry, Key, Lifetimes, parse_pattern
from knowalledge.caching.ports import CacheTelemetry, ResponseCache
from knowalledge.core.clock import Clock
from knowalledge.gateway.domain.answer import CacheLayer


class CacheLookup(Struct, frozen=True):
    """The best entry that any layer holds for a key. ``entry`` is None for a miss."""

    entry: CacheEntry | None
    fresh: bool
    layer: CacheLayer | None
    generation: int  # of this lookup; an entry that is made because of it is stored with this generation
    age_s: float = 0.0

    @property
    def result(self) -> Literal["hit", "stale", "miss"]:
        return "miss" if self.entry is None else "hit" if self.fresh else "stale"


class Layer(Struct, frozen=True):
    """One layer and the name that metrics, headers and answers know it by."""

    name: CacheLayer
    cache: ResponseCache


class Layers:
    """All layers of this process. A layer that is unavailable answers like an empty one."""

    def __init__(
        self,
        layers: tuple[Layer, ...],
        lifetimes: Lifetimes,
        clock: Clock,
        telemetry: CacheTelemetry,
        listen: Callable[[], bool] = lambda: True,
    ) -> None:
        """``layers``: the fastest first, at least one. ``listen`` applies the invalidations of other replicas."""
        self.layers, self.lifetimes = layers, lifetimes
        self._clock = clock
        self._telemetry = telemetry
        self._listen = listen
        self._answers_alone_s = lifetimes.memory_s if len(layers) > 1 else float("inf")

    @property
    def memory(self) -> ResponseCache:
        """The layer in this process."""
        return self.layers[0].cache

    @property
    def shared(self) -> ResponseCache | None:
        """The layer that all replicas share; None where this process is alone."""
        return self.layers[-1].cache if len(self.layers) > 1 else None

    def get_local(self, key: Key) -> CacheLookup | None:
        """A fresh entry of the first layer, or None. No IO, and no metric."""
        lookup = self.layers[0].cache.get(key)
        entry = lookup.entry
        if entry is None or lookup.held_s >= self._answers_alone_s:
            return None
        age_s = entry.age(self._clock.now())
        if age_s >= self.lifetimes.life_s:
            return None
        return CacheLookup(entry, True, self.layers[0].name, lookup.generation, age_s)

    def lookup(self, key: Key) -> CacheLookup:
        """The best entry: fresh, or stale but fit as a fallback, or a miss. Counted by layer."""
        lookup = self.get_local(key)
        if lookup is not None:
            self._telemetry.cached(self.layers[0].name, "hit", lookup.entry)
            return lookup
        lookup = self.get_shared(key)
        for layer in self.layers:
            result = lookup.result if layer.name == lookup.layer else "miss"
            self._telemetry.cached(layer.name, result, lookup.entry if result == "hit" else None)
        return lookup

    def peek(self, key: Key) -> CacheLookup:
        """The same without counting."""
        return self.get_local(key) or self.get_shared(key)

    def get_shared(self, key: Key) -> CacheLookup:
        """The newest entry of all layers, whatever the first one holds; not counted."""
        generation = 0
        best: tuple[int, CacheEntry] | None = None
        for index in reversed(range(len(self.layers))):  # of equally new entries, the authority's
            lookup = self.layers[index].cache.get(key)
            generation = generation or lookup.generation
            if lookup.entry is not None and (best is None or lookup.entry.made_at > best[1].made_at):
                best = index, lookup.entry
        if best is None:
            return CacheLookup(None, False, None, generation)
        index, entry = best
        age_s = entry.age(self._clock.now())
        for faster in self.layers[:index]:
            # Valid as of this generation, so a faster layer may treat it as made under it.
            faster.cache.put(key, replace(entry, generation=generation), self.lifetimes.whole_s - age_s)
        if age_s >= self.lifetimes.whole_s:
            return CacheLookup(None, False, None, generation)
        return CacheLookup(entry, age_s < self.lifetimes.life_s, self.layers[index].name, generation, age_s)

    def store(self, key: Key, entry: CacheEntry) -> None:
        """Store in every layer; ``entry.generation`` is the generation of the lookup that missed."""
        left_s = self.lifetimes.whole_s - entry.age(self._clock.now())
        for layer in reversed(self.layers):
            layer.cache.put(key, entry, left_s)

    def invalidate(self, pattern: str, by: str) -> int:
        """Invalidate by name, tag or pattern in every replica; the number of entries removed.

        Raises ``InvalidRequest`` for a bad pattern, and ``Unavailable`` if other replicas cannot be reached; the layers
        of this process are invalidated all the same.
        """
        invalidation = parse_pattern(pattern)
        *faster, authority = self.layers
        try:
            removed = authority.cache.invalidate(invalidation, by)
            if faster:
                self._listen()
        finally:
            dropped = [layer.cache.drop(invalidation) for layer in faster]
        return max(removed, *dropped, 0)
