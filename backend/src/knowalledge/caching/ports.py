"""What the caching service needs from outside, as Protocols."""

from collections.abc import Callable, Iterator
from typing import Protocol

from msgspec import Struct

from knowalledge.caching.domain import CacheEntry, Invalidation, Key, LayerLookup


class CacheTelemetry(Protocol):
    """What the cache tells about itself."""

    def cached(self, layer: str, result: str, entry: CacheEntry | None = None) -> None:
        """One look at a layer: ``layer`` is memory, redis or flight; ``result`` is hit, miss, stale or shared.

        With the entry that was served, whose tokens were saved.
        """
        ...


class LayerSize(Struct, frozen=True):
    entries: int
    bytes: int
    evictions: int


class ResponseCache(Protocol):
    """One layer of entries; an entry is valid until its time is over or one of its tags is taken back.

    No method raises for a store that is gone: it answers like an empty one, and ``up`` says so.
    """

    def get(self, key: Key) -> LayerLookup: ...

    def put(self, key: Key, entry: CacheEntry, seconds: float) -> None:
        """Hold an entry for at most ``seconds``. It is never served if a tag was taken back after ``entry.born``."""
        ...

    def invalidate(self, take: Invalidation, by: str) -> int:
        """Take back everything that ``take`` names, at once for every reader; returns the entries removed."""
        ...

    def drop(self, invalidation: Invalidation) -> int:
        """Remove the entries that it names, without a new generation; the number removed."""
        ...

    def size(self) -> LayerSize: ...

    @property
    def up(self) -> bool: ...


class Flight(Protocol):
    """One run of some work, seen by one of those who wait for it."""

    @property
    def led(self) -> bool:
        """Whether this caller's own work is what runs; otherwise it shares another's."""
        ...

    def follow(self, timeout: float) -> Iterator[bytes | None]:
        """The pieces from the first to the last, as they come; then what the work raised, if it did.

        None means that the run was lost with its machine and another began: what follows comes from the start again.
        Raises ``ProviderTimeout`` when ``timeout`` seconds have passed; the work goes on for the others.
        """
        ...


class Flights(Protocol):
    """One run of the same work at a time, over all replicas that share a store."""

    def fly(self, key: str, work: Callable[[], Iterator[bytes]]) -> Flight:
        """Join the run under this key, or start ``work`` in the background, where it survives its caller."""
        ...

    def flying(self, key: str) -> bool:
        """Whether there is a run under this key, in any replica, as far as is known."""
        ...


class Purger(Protocol):
    """A cache outside that keeps public answers by their tags."""

    def purge(self, tags: tuple[str, ...]) -> None:
        """Drop what carries any of the tags. Raises ``Unavailable`` if it did not say that it did."""
        ...
