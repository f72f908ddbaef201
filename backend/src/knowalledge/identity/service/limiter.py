"""How often each user or address may ask, over all replicas.

While a client is far from its limits a replica counts by itself, and tells the others twice a second: such a request
makes no round trip. Nearer to them each request asks Redis, which decides for all replicas at once. Without Redis a
replica counts alone, and nobody is refused for our outage.
"""

from collections.abc import Callable, Mapping

from cachetools import LRUCache

from knowalledge.core.access import Access
from knowalledge.core.errors import ClientLimited
from knowalledge.core.limits import Allowance
from knowalledge.identity.domain.rates import ClientCount, Rate, Room
from knowalledge.identity.ports import SharedCounts

# Clients in memory; those that have not asked for longest are forgotten first.
MAX_CLIENTS = 50_000
# How often the others are told, in seconds.
TELL_S = 0.5


class Limiter:
    """Counts requests by client and class of routes."""

    def __init__(
        self, rates: Mapping[Access, tuple[Rate, ...]], shared: SharedCounts | None, now: Callable[[], float]
    ) -> None:
        """``rates``: of a class of routes; none where it is missing. ``shared``: None for one replica."""
        self._rates = rates
        self._shared = shared
        self._now = now
        self._clients: LRUCache[str, ClientCount] = LRUCache(MAX_CLIENTS)
        self._untold: dict[str, ClientCount] = {}

    def admit(self, client: str, access: Access) -> ClientCount | None:
        """Count a request; returns what is known of its client, None where there is no limit.

        Raises ``ClientLimited``; then no window has counted it.
        """
        rates = self._rates.get(access)
        if not rates:
            return None
        name = f"{client}:{access.value}"
        try:
            count = self._clients[name]
        except KeyError:
            count = self._clients[name] = ClientCount(rates)
        now = self._now()
        room = count.room(now)
        if self._shared is not None and room is not Room.FAR:
            placed = self._shared.place(name, count, now)
            if placed is not None:
                if not placed:
                    raise self._refusal(count.allowances(now))
                return count
        if room is Room.NONE:
            raise self._refusal(count.allowances(now))
        count.add()
        if self._shared is not None:
            self._untold[name] = count
        return count

    def tell(self) -> None:
        """Tell the other replicas what this one has counted."""
        untold, self._untold = self._untold, {}
        if self._shared is not None:
            for name, count in untold.items():
                self._shared.report(name, count, self._now())

    def allowances(self, count: ClientCount) -> tuple[Allowance, ...]:
        """What is left to a client, for its headers."""
        return count.allowances(self._now())

    @staticmethod
    def _refusal(allowances: tuple[Allowance, ...]) -> ClientLimited:
        full = [it for it in allowances if not it.remaining] or list(allowances)
        longest = max(full, key=lambda it: it.resets_s)
        error = ClientLimited(
            f"each client may ask {longest.limit} times in {longest.window_s} s", retry_after=longest.resets_s
        )
        error.allowances = (longest,)
        return error
