"""What the service needs from the outside, as Protocols. Adapters implement; ``app.py`` joins."""

from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from enum import Enum
from typing import Protocol

from msgspec import Struct

from knowalledge.domain.admission import Crowd, Ending, Refusal
from knowalledge.domain.caching import Key, Sight, Stored, Take
from knowalledge.domain.model import Chunk, Completion, Embeddings, Priority, Prompt, Usage
from knowalledge.domain.outcomes import Outcome
from knowalledge.domain.quota import Level, Need
from knowalledge.domain.tracing import UNTRACED, Trace


class Clock(Protocol):
    def now(self) -> float:
        """Seconds since the epoch."""
        ...

    def monotonic(self) -> float: ...


class Provider(Protocol):
    """One model behind one address. A timeout is the whole call's budget in seconds, headers to last byte.

    Raises only ``ProviderError`` subclasses and ``ContentBlocked``. Never retries: retries belong to the
    service, which knows the quota. ``stream`` is a generator of the chunks that have come together, in order: what is
    there goes out before more is waited for. Closing it closes the connection at once. An error before the first chunk
    is raised by the first ``next``, and one after it when what came before it has been given.
    """

    def complete(self, prompt: Prompt, timeout: float) -> Completion: ...

    def stream(self, prompt: Prompt, timeout: float) -> Generator[Sequence[Chunk], None, None]: ...

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings: ...

    def count_tokens(self, prompt: Prompt, timeout: float) -> int: ...

    def ping(self, timeout: float) -> None:
        """Cheap reachability for ``doctor`` and health: raises what a call would raise."""
        ...

    def close(self) -> None: ...


class Asking(Struct, frozen=True):
    """One request that asks for quota."""

    id: str
    need: Need
    level: Priority = Priority.MEDIUM
    tenant: str = ""
    patience_s: float = 0.0  # how long it would wait for its turn; 0: not at all
    arrived: int = 0  # microseconds; of one that asks again and keeps its place by it, else 0


class AskAgain(Enum):
    """The room that a place was in is gone, the place is not: ask again with the moment of arrival."""

    AGAIN = "again"


class Reservation(Struct, frozen=True):
    """Quota that was granted; it ends in exactly one way: settled, released, or its holder dies."""

    target: str
    id: str
    need: Need


class Ticket(Protocol):
    """A place in the waiting room."""

    @property
    def position(self) -> int:
        """From 1; kept up to date while it waits."""
        ...

    @property
    def eta_s(self) -> float: ...

    @property
    def arrived(self) -> int:
        """Microseconds, by the room's clock."""
        ...

    def wait(self, timeout: float) -> "Decision | Ending | AskAgain | None":
        """The grant, or how the place was lost; None when the timeout (seconds) passed and it still waits."""
        ...

    def leave(self, ending: Ending) -> bool:
        """Give the place up. False if it was over already: then ``wait`` tells how, perhaps by a grant."""
        ...


class Decision(Struct, frozen=True):
    """The quota's answer: granted, a place in the room, or when. Never a bare bool."""

    reservation: Reservation | None = None
    ticket: Ticket | None = None
    refusal: Refusal | None = None
    wait_s: float = 0.0  # unless granted: seconds until its turn
    window: str = ""  # unless granted: the window that it waits for
    levels: tuple[Level, ...] = ()  # every window as it stands after the decision
    degraded: bool = False  # decided by this replica's share alone


class Depth(Struct, frozen=True):
    """One level of one room."""

    level: Priority
    waiting: int
    oldest_s: float
    eta_s: float  # for a newcomer
    tenants: Mapping[str, Crowd]  # bounded
    left: Mapping[Ending, int]  # since the room was opened


class Tally(Struct, frozen=True):
    """What has happened to one target's quota since its state began, over all replicas."""

    settled: int = 0
    released: int = 0
    refused: int = 0  # those who asked and got neither quota nor a place
    limited: int = 0  # 429s of the provider
    drift_input: int = 0  # tokens: the truth less the estimate, summed
    drift_output: int = 0


class QuotaStore(Protocol):
    """The one quota of each target, and its waiting room, shared by every replica that asks the same store.

    ``ask`` raises ``NeverFits`` when a need is larger than a whole window. If the shared store is gone, a replica
    decides by its own share and says ``degraded``; no method raises for it.
    """

    def ask(self, target: str, asking: Asking) -> Decision: ...

    def settle(self, reservation: Reservation, true: Need) -> None: ...

    def release(self, reservation: Reservation) -> None: ...

    def refused(self, reservation: Reservation) -> None:
        """The provider answered 429: released, and what is learnt of its limits comes down."""
        ...

    def close_until(self, target: str, seconds: float, window: str) -> None:
        """Grant nothing for this target for ``seconds``: the provider said so."""
        ...

    def levels(self, target: str) -> tuple[Level, ...]: ...

    def tally(self, target: str) -> Tally: ...

    def depths(self, target: str) -> tuple[Depth, ...]: ...


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
    ending: Ending | None = None  # how it left the waiting room, if it was in one
    first_token_s: float | None = None
    error: str = ""  # the error's code
    trace: Trace = UNTRACED


class Telemetry(Protocol):
    """What the service tells about itself; one record a request."""

    def request(self, record: Record) -> None: ...

    def upstream(self, target: str, outcome: Outcome, seconds: float) -> None: ...

    def refused(self, target: str, reason: Refusal) -> None:
        """The quota of a target gave neither a grant nor a place."""
        ...

    def settled(self, target: str, estimate: Need, true: Need) -> None:
        """A reservation was settled."""
        ...

    def uncounted(self, target: str) -> None:
        """An answer came without a count of its tokens that could be believed: the estimate stands."""
        ...


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

    def flying(self, key: str) -> bool:
        """Whether there is a run under this key, in any replica, as far as is known."""
        ...


class Rest(Struct, frozen=True):
    """How long something that failed is left alone, and how long ago that began, in seconds."""

    length_s: float
    age_s: float

    @property
    def over(self) -> bool:
        return self.age_s >= self.length_s


class Popularity(Protocol):
    """Counts of what is asked for, over all replicas that share a store; old requests count ever less.

    And the rests of what failed: a bounded number, of which those are lost first that would be forgotten first.
    """

    def count(self, asked: Mapping[str, float], least: float) -> tuple[str, ...]:
        """Add counts by name, and tell every name whose count is at least ``least``, the most popular first."""
        ...

    def rest(self, name: str, length_s: float, kept_s: float) -> None:
        """A rest begins now, in place of an earlier one; it is known for ``kept_s`` after its end."""
        ...

    def rests(self) -> Mapping[str, Rest]:
        """Every rest that is known, by name: those that are over too."""
        ...

    def forget(self, name: str) -> None:
        """Its rest, if it has one, is not known any more."""
        ...


class Purger(Protocol):
    """A cache outside that keeps public answers by their tags."""

    def purge(self, tags: tuple[str, ...]) -> None:
        """Drop what carries any of the tags. Raises ``Unavailable`` if it did not say that it did."""
        ...
