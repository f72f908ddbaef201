"""The cache layer in a worker's own memory, bounded by bytes."""

from typing import NamedTuple

from knowalledge.caching.domain import CacheEntry, Generations, Invalidation, Key, LayerLookup
from knowalledge.caching.eviction import Sieve
from knowalledge.caching.ports import LayerSize
from knowalledge.core.clock import Clock

# Bytes of an entry beside its body and names, measured with tracemalloc (CPython 3.11).
OVERHEAD = 900


class _Held(NamedTuple):
    key: Key
    entry: CacheEntry
    since: float
    until: float


class MemoryResponseCache:
    """Implements ``ResponseCache`` for one process.

    Greenlets switch only at IO and there is none here, so it needs no lock. The shared layer's ``listen`` applies the
    invalidations of other replicas through ``generations`` and ``drop``.
    """

    up = True

    def __init__(self, max_bytes: int, clock: Clock) -> None:
        self.generations = Generations()
        self._clock = clock
        self._held: Sieve[str, _Held] = Sieve(max_bytes)

    def get(self, key: Key) -> LayerLookup:
        generation = self.generations.now
        held = self._held.get(key.name)
        if held is None:
            return LayerLookup(None, generation)
        now = self._clock.monotonic()
        if now >= held.until or not self.generations.is_valid(held.key.tags, held.entry.generation):
            self._held.pop(key.name)
            return LayerLookup(None, generation)
        return LayerLookup(held.entry, generation, now - held.since)

    def put(self, key: Key, entry: CacheEntry, seconds: float) -> None:
        if seconds <= 0 or not self.generations.is_valid((*key.tags, *key.barriers), entry.generation):
            return
        now = self._clock.monotonic()
        size = len(entry.body) + 2 * len(key.name) + OVERHEAD
        self._held.put(key.name, _Held(key, entry, now, now + seconds), size)

    def invalidate(self, invalidation: Invalidation, by: str) -> int:  # noqa: ARG002 - only the shared layer keeps a log
        self.generations.invalidate(invalidation.record_key)
        return self.drop(invalidation)

    def drop(self, invalidation: Invalidation) -> int:
        """Remove the entries that it names; the number of those that had not expired."""
        now = self._clock.monotonic()
        dropped = [held for _, held in self._held if invalidation.matches(held.key)]
        for held in dropped:
            self._held.pop(held.key.name)
        return sum(held.until > now for held in dropped)

    def clear(self) -> None:
        self._held.clear()

    def size(self) -> LayerSize:
        return LayerSize(len(self._held), self._held.bytes, self._held.evictions)
