"""Answers in a worker's own memory: bounded by bytes, told what was taken back."""

from typing import NamedTuple

from knowalledge.caching.domain import CacheEntry, Generations, Invalidation, Key, LayerLookup
from knowalledge.caching.eviction import Sieve
from knowalledge.caching.ports import LayerSize
from knowalledge.core.clock import Clock

# What an entry takes beside its body and names: the objects around it, measured with tracemalloc (CPython 3.11).
OVERHEAD = 900


class _Held(NamedTuple):
    key: Key
    entry: CacheEntry
    since: float
    until: float


class MemoryResponseCache:
    """Implements ``ResponseCache`` for one process.

    Greenlets switch only at IO and there is none here, so it needs no lock. With a shared store behind it, that
    store's watcher tells it of every invalidation through ``generations`` and ``drop``.
    """

    up = True

    def __init__(self, room: int, clock: Clock) -> None:
        self.generations = Generations()
        self._clock = clock
        self._held: Sieve[str, _Held] = Sieve(room)

    def get(self, key: Key) -> LayerLookup:
        generation = self.generations.now
        held = self._held.get(key.name)
        if held is None:
            return LayerLookup(None, generation)
        now = self._clock.monotonic()
        if now >= held.until or not self.generations.valid(held.key.tags, held.entry.born):
            self._held.pop(key.name)
            return LayerLookup(None, generation)
        return LayerLookup(held.entry, generation, now - held.since)

    def put(self, key: Key, entry: CacheEntry, seconds: float) -> None:
        if seconds <= 0 or not self.generations.valid((*key.tags, *key.bars), entry.born):
            return
        now = self._clock.monotonic()
        size = len(entry.body) + 2 * len(key.name) + OVERHEAD
        self._held.put(key.name, _Held(key, entry, now, now + seconds), size)

    def invalidate(self, take: Invalidation, by: str) -> int:  # noqa: ARG002 - a log is for shared stores
        self.generations.take(take.mark)
        return self.drop(take)

    def drop(self, take: Invalidation) -> int:
        """Let go of what ``take`` names; returns how many of those were still alive."""
        now = self._clock.monotonic()
        gone = [held for _, held in self._held if take.hits(held.key)]
        for held in gone:
            self._held.pop(held.key.name)
        return sum(held.until > now for held in gone)

    def clear(self) -> None:
        self._held.clear()

    def size(self) -> LayerSize:
        return LayerSize(len(self._held), self._held.bytes, self._held.evictions)
