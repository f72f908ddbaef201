"""What the service needs from the outside, as Protocols. Adapters implement; ``app.py`` joins."""

from collections.abc import Generator
from typing import Protocol

from msgspec import Struct

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
