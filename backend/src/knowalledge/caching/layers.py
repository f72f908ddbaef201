"""The two layers that we own, read as one: a worker's memory, then the store that replicas share."""

from collections.abc import Callable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.caching.domain import CacheEntry, Key, Lifetimes, parse_pattern
from knowalledge.caching.ports import CacheTelemetry, NearCache, ResponseCache
from knowalledge.core.clock import Clock
from knowalledge.core.errors import Unavailable


class CacheLookup(Struct, frozen=True):
    """What both layers know of a key."""

    entry: CacheEntry | None
    fresh: bool
    layer: Literal["memory", "redis"] | None
    generation: int  # to be given to what is made in its place
    age: float = 0.0

    @property
    def result(self) -> Literal["hit", "stale", "miss"]:
        return "miss" if self.entry is None else "hit" if self.fresh else "stale"


class Layers:
    """Memory in front of the shared store. Without one, or while it is away, memory alone."""

    def __init__(
        self,
        memory: NearCache,
        shared: "ResponseCache | None",
        lifetimes: Lifetimes,
        clock: Clock,
        telemetry: CacheTelemetry,
        listen: Callable[[], bool] = lambda: True,
    ) -> None:
        """``listen`` brings what was taken back elsewhere to ``memory``."""
        self.memory, self.shared, self.lifetimes = memory, shared, lifetimes
        self._clock = clock
        self._telemetry = telemetry
        self._listen = listen

    def near(self, key: Key) -> CacheLookup | None:
        """A fresh answer from memory, or None. No IO, and nothing is counted."""
        sight = self.memory.get(key)
        entry = sight.entry
        if entry is None or (self.shared is not None and sight.held_s >= self.lifetimes.memory_s):
            return None
        age = entry.age(self._clock.now())
        if age >= self.lifetimes.life_s:
            return None
        return CacheLookup(entry, True, "memory", sight.generation, age)

    def find(self, key: Key) -> CacheLookup:
        """The best that there is: fresh, or stale but fit as a fallback, or nothing."""
        found = self.near(key)
        if found is not None:
            self._telemetry.cached("memory", "hit", found.entry)
            return found
        found = self.far(key)
        for layer in ("memory", "redis") if self.shared is not None else ("memory",):
            mine = found.layer == layer
            result = "hit" if mine and found.fresh else "stale" if mine else "miss"
            self._telemetry.cached(layer, result, found.entry if mine and found.fresh else None)
        return found

    def look(self, key: Key) -> CacheLookup:
        """What ``find`` finds, without counting it."""
        return self.near(key) or self.far(key)

    def far(self, key: Key) -> CacheLookup:
        """What all replicas know, whatever this worker holds; not counted."""
        sight = self.shared.get(key) if self.shared is not None else None
        local = self.memory.get(key)
        generation = (sight and sight.generation) or local.generation
        if (
            sight is not None
            and sight.entry is not None
            and (local.entry is None or local.entry.made_at <= sight.entry.made_at)
        ):
            found = self._judged(sight.entry, "redis", generation)
            # Redis vouches for it as of this generation, so memory may hold it as if it were born now.
            self._hold(key, replace(sight.entry, born=generation), found.age)
        else:
            # A copy that Redis has not got, or cannot be asked about, is as good as its age.
            found = self._judged(local.entry, "memory", generation)
        return found

    def _judged(
        self, entry: CacheEntry | None, layer: Literal["memory", "redis"], generation: int
    ) -> CacheLookup:
        age = entry.age(self._clock.now()) if entry else 0.0
        if entry is None or age >= self.lifetimes.whole_s:
            return CacheLookup(None, False, None, generation)
        return CacheLookup(entry, age < self.lifetimes.life_s, layer, generation, age)

    def _hold(self, key: Key, entry: CacheEntry, age: float) -> None:
        self.memory.put(key, entry, self.lifetimes.whole_s - age)

    def keep(self, key: Key, entry: CacheEntry) -> None:
        """Store in both layers; ``entry.born`` is the generation of the look that missed."""
        age = entry.age(self._clock.now())
        if self.shared is not None:
            self.shared.put(key, entry, self.lifetimes.whole_s - age)
        self._hold(key, entry, age)

    def invalidate(self, pattern: str, by: str) -> int:
        """Take back by name, tag or pattern, in every replica; returns the entries removed.

        Raises ``Unavailable`` if the others cannot be told; this worker has then forgotten them all the same.
        """
        take = parse_pattern(pattern)
        if self.shared is None:
            return self.memory.invalidate(take, by)
        try:
            removed = self.shared.invalidate(take, by)
        except Unavailable:
            self.memory.drop(take)
            raise
        self._listen()
        return max(removed, self.memory.drop(take))
