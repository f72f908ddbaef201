"""What the service needs from the outside, as Protocols. Adapters implement; ``app.py`` joins."""

from collections.abc import Callable, Generator, Iterator
from typing import Protocol

from msgspec import Struct

from knowalledge.domain.caching import Key, Sight, Stored, Take
from knowalledge.domain.model import Chunk, Completion, Embeddings, Priority, Prompt, Usage
from knowalledge.domain.outcomes import Outcome
from knowalledge.domain.quota import Entry, Level, Need


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class Provider(Protocol):
    """One model behind one address. A timeout is the whole call's budget in seconds, headers to last byte.

    Raises only ``ProviderError`` subclasses and ``ContentBlocked``. Never retries: retries belong to the
    service, which knows the quota. ``stream`` is a generator; closing it closes the connection at once.
    An error before the first chunk is raised by the first ``next``.
    """

    def complete(self, prompt: Prompt, timeout: float) -> Completion: ...

    def stream(self, prompt: Prompt, timeout: float) -> Generator[Chunk, None, None]: ...

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings: ...

    def count_tokens(self, prompt: Prompt, timeout: float) -> int: ...

    def ping(self, timeout: float) -> None:
        """Cheap reachability for ``doctor`` and health: raises what a call would raise."""
        ...

    def close(self) -> None: ...


class Reservation(Struct, frozen=True):
    """Quota that was granted; it ends in exactly one way: settled, released, or its holder dies."""

    target: str
    id: str
    entry: Entry


class Decision(Struct, frozen=True):
    """The quota's answer: granted, or when. Never a bare bool."""

    reservation: Reservation | None
    wait_s: float = 0.0  # when refused: seconds until it would fit
    window: str = ""  # when refused: the window that refused
    levels: tuple[Level, ...] = ()  # every window as it stands after the decision
    degraded: bool = False  # decided by this replica's share alone


class QuotaStore(Protocol):
    """The one quota of each target, shared by every replica that asks the same store.

    ``reserve`` raises ``NeverFits`` when a need is larger than a whole window. If the shared store is gone, a
    replica decides by its own share and says ``degraded``; no method raises for it.
    """

    def reserve(self, target: str, need: Need) -> Decision: ...

    def settle(self, reservation: Reservation, true: Need) -> None: ...

    def release(self, reservation: Reservation) -> None: ...

    def close_until(self, target: str, seconds: float, window: str) -> None:
        """Grant nothing for this target for ``seconds``: the provider said so."""
        ...

    def levels(self, target: str) -> tuple[Level, ...]: ...


class Record(Struct, frozen=True):
    """One request, told once, at its end."""

    request_id: str
    model: str
    target: str
    outcome: Outcome
    priority: Priority
    seconds: float
    usage: Usage
    cache: str = "miss"
    waited_s: float = 0.0
    first_token_s: float | None = None
    error: str = ""  # the error's code


class Telemetry(Protocol):
    """What the service tells about itself; one record a request."""

    def request(self, record: Record) -> None: ...

    def upstream(self, target: str, outcome: Outcome, seconds: float) -> None: ...


class CacheTelemetry(Protocol):
    """What the cache tells about itself."""

    def cached(self, layer: str, result: str, entry: Stored | None = None) -> None:
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

    def get(self, key: Key) -> Sight: ...

    def put(self, key: Key, entry: Stored, seconds: float) -> None:
        """Hold an entry for at most ``seconds``. It is never served if a tag was taken back after ``entry.born``."""
        ...

    def invalidate(self, take: Take, by: str) -> int:
        """Take back everything that ``take`` names, at once for every reader; returns the entries removed."""
        ...

    def size(self) -> LayerSize: ...

    @property
    def up(self) -> bool: ...


class NearCache(ResponseCache, Protocol):
    """A layer in this process, in front of a shared one."""

    def drop(self, take: Take) -> int:
        """Let go of what is held, without a new generation; returns the entries removed."""
        ...


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
