"""What the caching service needs from outside, as Protocols."""

from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Struct

from knowalledge.caching.domain import CacheEntry, Invalidation, Key, LayerLookup


class CacheTelemetry(Protocol):
    """Metrics of the cache."""

    def cached(self, layer: str, result: str, entry: CacheEntry | None = None) -> None:
        """One lookup: ``layer`` is memory, redis, flight or browser; ``result`` is hit, miss, stale or shared.

        ``entry``: the one served, whose tokens were saved.
        """
        ...


class LayerSize(Struct, frozen=True):
    entries: int
    bytes: int
    evictions: int


class ResponseCache(Protocol):
    """One layer of entries; an entry is valid until it expires or one of its tags is invalidated.

    A store that is unavailable answers like an empty one, and ``up`` is False; only ``invalidate`` raises for it.
    """

    def get(self, key: Key) -> LayerLookup: ...

    def put(self, key: Key, entry: CacheEntry, seconds: float) -> None:
        """Store for at most ``seconds``. Never served if a tag was invalidated after ``entry.generation``."""
        ...

    def invalidate(self, invalidation: Invalidation, by: str) -> int:
        """Invalidate for every reader at once; the number of entries removed. Raises ``Unavailable``."""
        ...

    def drop(self, invalidation: Invalidation) -> int:
        """Remove the matching entries without a new generation; the number removed."""
        ...

    def size(self) -> LayerSize: ...

    @property
    def up(self) -> bool: ...


class Flight(Protocol):
    """One run of some work, as seen by one of its callers."""

    @property
    def led(self) -> bool:
        """Whether this caller's own work is what runs; otherwise the caller shares another's run."""
        ...

    def follow(self, timeout: float) -> Iterator[bytes | None]:
        """The pieces from first to last, as they arrive; then the work's exception, if it raised one.

        None means that the run was lost with its replica and another one began: the pieces start again from the first.
        Raises ``ProviderTimeout`` after ``timeout`` seconds; the work continues for the other callers.
        """
        ...


class Flights(Protocol):
    """At most one run of the same work at a time over all replicas that share a store (Go's singleflight)."""

    def fly(self, key: str, work: Callable[[], Iterator[bytes]]) -> Flight:
        """Join the run under this key, or start ``work`` in the background, where it outlives its caller."""
        ...

    def flying(self, key: str) -> bool:
        """Whether a run under this key is known, in any replica."""
        ...


class Purger(Protocol):
    """A CDN that caches public answers by their tags."""

    def purge(self, tags: tuple[str, ...]) -> None:
        """Purge all answers with any of the tags. Raises ``Unavailable`` unless the CDN confirms."""
        ...
