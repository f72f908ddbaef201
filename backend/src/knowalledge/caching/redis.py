"""Answers that all replicas share, and the news of what was taken back. See ``scripts/_cache.lua``."""

from knowalledge.caching.domain import (
    ALL,
    MOST_TAGS,
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

_GET = Script("knowalledge.caching", "cache_get", "_cache")
_PUT = Script("knowalledge.caching", "cache_put", "_cache")
_TAKE = Script("knowalledge.caching", "cache_take", "_cache")
_NEWS = Script("knowalledge.caching", "cache_news", "_cache")
_SWEEP = Script("knowalledge.caching", "cache_sweep", "_cache")
_SIZE = Script("knowalledge.caching", "cache_size", "_cache")

# One hash tag: an entry and the generations that judge it must be on one node of a Cluster.
_ENTRY = b"kn:{cache}:e:"
_INDEX = b"kn:{cache}:i:"
_GENS = b"kn:{cache}:gens"
_LOG = b"kn:{cache}:log"
_SIZES = b"kn:{cache}:sizes"
_ALL = _INDEX + ALL.encode()
# Invalidations that a replica may miss while it is away; one that missed more forgets everything.
LOG_LENGTH = 10_000
_PORTION = 500


class RedisResponseCache:
    """Implements ``ResponseCache`` for every replica that names the same Redis."""

    def __init__(self, client: CommandExecutor, outage: RedisBreaker, room: int = 128 * 1024**2) -> None:
        """``room``: the bytes that all entries together may take; beyond, what would end first goes first."""
        self._client = client
        self._room = room
        self._outage = outage
        self.unreadable = 0  # entries that were corrupt or of another version

    @property
    def up(self) -> bool:
        return self._outage.up

    def get(self, key: Key) -> LayerLookup:
        keys = (_ENTRY + key.name.encode(), _GENS, _LOG)
        reply = self._outage.run(lambda: _GET(self._client, keys, *key.tags), None)
        if reply is None:
            return LayerLookup(None, 0)
        generation, taken, data = reply
        if data is None:
            return LayerLookup(None, generation)
        entry = unpack(data)
        if entry is None:
            self.unreadable += 1
            return LayerLookup(None, generation)
        return LayerLookup(entry if taken <= entry.born else None, generation)

    def put(self, key: Key, entry: CacheEntry, seconds: float) -> None:
        if seconds <= 0:
            return
        keys = (
            _ENTRY + key.name.encode(),
            _GENS,
            _LOG,
            _SIZES,
            *(_INDEX + tag.encode() for tag in key.families),
        )
        kept = int(seconds * 1000), self._room, _ENTRY
        args = (key.name, entry.born, pack(entry), *kept, *key.tags, *key.bars)
        self._outage.run(lambda: _PUT(self._client, keys, *args), None)

    def invalidate(self, take: Invalidation, by: str) -> int:
        """Effective at once; then the memory is freed. Raises ``Unavailable`` when replicas cannot be told."""
        told = self._outage.run(
            lambda: _TAKE(
                self._client, (_GENS, _LOG), take.kind, take.what, take.mark, by, MOST_TAGS, LOG_LENGTH
            ),
            None,
        )
        if told is None:
            raise Unavailable("the shared cache is away: other replicas cannot be told", retry_after=2.0)
        return self.drop(take)

    def drop(self, take: Invalidation) -> int:
        removed: int = self._outage.run(lambda: self._sweep(take), 0)
        return removed

    def _sweep(self, take: Invalidation) -> int:
        keys = (_INDEX + take.family.encode(), _SIZES, _ALL)
        glob = take.what if take.kind == "glob" else ""
        removed, cursor = 0, "0"
        while True:
            found, cursor = _SWEEP(self._client, keys, glob, cursor, _PORTION, _ENTRY, take.what)
            removed += int(found)
            if cursor in (b"0", "0"):
                return removed

    def size(self) -> LayerSize:
        """All zero while Redis is away."""
        return LayerSize(*self._outage.run(lambda: _SIZE(self._client, (_SIZES, _ALL), _ENTRY), (0, 0, 0)))

    def listen(self, memory: MemoryResponseCache) -> bool:
        """Tell a worker's memory what was taken back since the last call; False if Redis is away.

        Events are numbered without gaps, so a listener knows when it missed some (it was away for long, or Redis
        lost its data): then it forgets everything that it held before.
        """
        known = memory.generations
        reply = self._outage.run(lambda: _NEWS(self._client, (_GENS, _LOG), known.now, _PORTION), None)
        if reply is None:
            return False
        now, *rest = reply
        last, missed = known.now, False  # asked again: another call may have listened meanwhile
        for generation, before, kind, what, mark in zip(*(rest[part::5] for part in range(5)), strict=True):
            if generation <= last:
                continue
            if before != last:
                missed = True
                break
            known.learn(mark.decode(), generation)
            if kind == b"glob":  # the tags are judged when they are read
                memory.drop(Invalidation("glob", what.decode()))
            last = generation
        if missed or (last < now and len(rest) < 5 * _PORTION):
            known.forget(now)
            memory.clear()
        return True
