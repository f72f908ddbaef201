"""Reading through the cache: a fresh entry, else one shared run of the work that makes it, else a stale entry."""

from collections.abc import Callable, Iterator

from msgspec.structs import replace

from knowalledge.caching.domain import CacheEntry, Key
from knowalledge.caching.layers import CacheLookup, Layers
from knowalledge.caching.ports import Flight, Flights
from knowalledge.core.clock import Clock
from knowalledge.core.errors import Limited, ProviderError, ProviderRejected, ProviderTimeout, Unavailable
from knowalledge.core.trace_context import Attributes, Trace

# With a stale entry to fall back to, a caller waits this long for a fresh one; its making continues without them.
STALE_PATIENCE_S = 10.0
# Failures that a stale entry makes up for. A request that is invalid here fails with or without one; a provider that
# rejects what it took before may have lost the model.
RECOVERABLE = (Limited, Unavailable, ProviderError, ProviderRejected)


class ReadThrough:
    """What answers and topics have in common; they differ in what a flight's pieces mean."""

    def __init__(self, layers: Layers, flights: Flights, clock: Clock) -> None:
        self.layers, self.flights = layers, flights
        self._clock = clock

    def lookup(self, key: Key, trace: Trace, max_age_s: float | None = None) -> CacheLookup:
        """The best entry, counted and traced. One older than ``max_age_s`` is stale to this caller."""
        if not trace.live:
            return apply_max_age(self.layers.lookup(key), max_age_s)
        began = self._clock.monotonic()
        lookup = apply_max_age(self.layers.lookup(key), max_age_s)
        attributes: Attributes = {"knowalledge.cache.result": lookup.result}
        if lookup.layer:
            attributes["knowalledge.cache.layer"] = lookup.layer
        trace.add_step("cache", began, attributes)
        return lookup

    def follow(
        self,
        flight: Flight,
        lookup: CacheLookup,
        timeout_s: float,
        has_output: Callable[[], bool] = lambda: False,
    ) -> Iterator[bytes | None]:
        """The flight's pieces; None means that they start again from the first.

        With a stale entry at hand the wait for the first output is short: ``ProviderTimeout`` is then raised early.
        ``has_output`` tells whether the caller has been shown any.
        """
        if lookup.entry is not None and timeout_s > STALE_PATIENCE_S:
            try:
                yield from flight.follow(STALE_PATIENCE_S)
                return
            except ProviderTimeout:
                if not has_output():
                    raise
            yield None
        yield from flight.follow(timeout_s)

    def fallback(self, lookup: CacheLookup, error: BaseException) -> CacheEntry | None:
        """The stale entry that may be served in place of ``error``, or None."""
        entry = lookup.entry
        if entry is None or not isinstance(error, RECOVERABLE):
            return None
        return entry if entry.age(self._clock.now()) < self.layers.lifetimes.whole_s else None

    def run(
        self,
        key: Key,
        reuse: Callable[[CacheEntry], bytes],
        make: Callable[[int], Iterator[bytes]],
        max_age_s: float | None = None,
        newer_than: float | None = None,
    ) -> Iterator[bytes]:
        """A flight's work: the entry that another run has just stored, else a new one.

        ``make`` gets the generation to store under and yields the pieces; ``reuse`` renders an entry as the only piece.
        ``newer_than``, epoch seconds: to refresh an entry ahead of its end, only one made after this moment is reused.
        """
        if newer_than is None:
            lookup = apply_max_age(self.layers.peek(key), max_age_s)
            is_usable = lookup.fresh
        else:
            lookup = self.layers.get_shared(key)
            is_usable = lookup.entry is not None and lookup.entry.made_at > newer_than
        if is_usable and lookup.entry is not None:
            yield reuse(lookup.entry)
        else:
            yield from make(lookup.generation)


def apply_max_age(lookup: CacheLookup, max_age_s: float | None) -> CacheLookup:
    """The lookup as seen by a caller who accepts entries up to ``max_age_s`` old; None: as long as they are fresh."""
    return lookup if max_age_s is None or lookup.age_s <= max_age_s else replace(lookup, fresh=False)
