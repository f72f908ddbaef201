"""The cache layer that all replicas share, and the log of invalidations. See ``scripts/_cache.lua``."""

from knowalledge.caching.domain import (
    ALL,
    MAX_TAGS,
    CacheEntry,
    Invalidation,
    Key,
    LayerLookup,
    pack,
    unpack,
)
from knowalledge.caching.memory import MemoryResponseCache
from knowalledge.caching.ports import LayerSize
from knowalledge.core.errors import Unavailable
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.scripts import CommandExecutor, Script

_GET = Script.load("knowalledge.caching", "cache_get", "_cache")
_PUT = Script.load("knowalledge.caching", "cache_put", "_cache")
_TAKE = Script.load("knowalledge.caching", "cache_take", "_cache")
_NEWS = Script.load("knowalledge.caching", "cache_news", "_cache")
_SWEEP = Script.load("knowalledge.caching", "cache_sweep", "_cache")
_SIZE = Script.load("knowalledge.caching", "cache_size", "_cache")

# Invalidations that a replica may miss while it is disconnected; one that misses more drops all of its memory.
LOG_LENGTH = 10_000
_BATCH = 500  # names or invalidations in one script call


class RedisResponseCache:
    """Implements ``ResponseCache`` for every replica that names the same Redis."""

    def __init__(
        self,
        client: CommandExecutor,
        breaker: RedisBreaker,
        max_bytes: int = 128 * 1024**2,
        prefix: str = "",
    ) -> None:
        """``max_bytes``: of all entries together; beyond it those that expire first are evicted.

        ``prefix``: of every key.
        """
        # One hash tag keeps entries and generations on one node of a Redis Cluster, where a script reaches both.
        keys = f"{prefix}kn:{{cache}}:".encode()
        self._entry, self._index = keys + b"e:", keys + b"i:"
        self._gens, self._log, self._sizes = keys + b"gens", keys + b"log", keys + b"sizes"
        self._all = self._index + ALL.encode()
        self._client = client
        self._max_bytes = max_bytes
        self._breaker = breaker
        self.unreadable = 0  # entries that were corrupt or of another schema

    @property
    def up(self) -> bool:
        return self._breaker.up

    def get(self, key: Key) -> LayerLookup:
        keys = (self._entry + key.name.encode(), self._gens, self._log)
        reply = self._breaker.run(lambda: _GET(self._client, keys, *key.tags), None)
        if reply is None:
            return LayerLookup(None, 0)
        generation, invalidated, data = reply
        if data is None:
            return LayerLookup(None, generation)
        entry = unpack(data)
        if entry is None:
            self.unreadable += 1
            return LayerLookup(None, generation)
        return LayerLookup(entry if invalidated <= entry.generation else None, generation)

    def put(self, key: Key, entry: CacheEntry, seconds: float) -> None:
        if seconds <= 0:
            return
        keys = (
            self._entry + key.name.encode(),
            self._gens,
            self._log,
            self._sizes,
            *(self._index + tag.encode() for tag in key.shared_tags),
        )
        limits = int(seconds * 1000), self._max_bytes, self._entry
        args = (key.name, entry.generation, pack(entry), *limits, *key.tags, *key.barriers)
        self._breaker.run(lambda: _PUT(self._client, keys, *args), None)

    def invalidate(self, invalidation: Invalidation, by: str) -> int:
        """Effective at once; the memory is freed afterwards. Raises ``Unavailable`` if replicas cannot be reached."""
        generation = self._breaker.run(
            lambda: _TAKE(
                self._client,
                (self._gens, self._log),
                invalidation.kind,
                invalidation.pattern,
                invalidation.record_key,
                by,
                MAX_TAGS,
                LOG_LENGTH,
            ),
            None,
        )
        if generation is None:
            raise Unavailable("the shared cache is away: other replicas cannot be told", retry_after=2.0)
        return self.drop(invalidation)

    def drop(self, invalidation: Invalidation) -> int:
        removed: int = self._breaker.run(lambda: self._sweep(invalidation), 0)
        return removed

    def _sweep(self, invalidation: Invalidation) -> int:
        keys = (self._index + invalidation.index_tag.encode(), self._sizes, self._all)
        glob = invalidation.pattern if invalidation.kind == "glob" else ""
        removed, cursor = 0, "0"
        while True:
            swept, cursor = _SWEEP(
                self._client, keys, glob, cursor, _BATCH, self._entry, invalidation.pattern
            )
            removed += int(swept)
            if cursor in (b"0", "0"):
                return removed

    def size(self) -> LayerSize:
        """All zero while Redis is unavailable."""
        return LayerSize(
            *self._breaker.run(lambda: _SIZE(self._client, (self._sizes, self._all), self._entry), (0, 0, 0))
        )

    def listen(self, memory: MemoryResponseCache) -> bool:
        """Apply the invalidations since the last call to a worker's memory; False if Redis is unavailable.

        Log entries are numbered without gaps, so a listener knows when it has missed some (after a long disconnection,
        or because Redis has lost its data). It then drops everything that it holds.
        """
        generations = memory.generations
        reply = self._breaker.run(
            lambda: _NEWS(self._client, (self._gens, self._log), generations.now, _BATCH), None
        )
        if reply is None:
            return False
        now, *rest = reply
        last, missed = generations.now, False  # read anew: another call may have listened meanwhile
        for generation, previous, kind, pattern, record_key in zip(
            *(rest[part::5] for part in range(5)), strict=True
        ):
            if generation <= last:
                continue
            if previous != last:
                missed = True
                break
            generations.record(record_key.decode(), generation)
            if kind == b"glob":  # tags are checked when an entry is read
                memory.drop(Invalidation("glob", pattern.decode()))
            last = generation
        if missed or (last < now and len(rest) < 5 * _BATCH):
            generations.reset(now)
            memory.clear()
        return True
