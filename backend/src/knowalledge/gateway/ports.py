"""What the gateway needs from outside, as Protocols."""

from collections.abc import Generator, Sequence
from typing import Protocol

from msgspec import Struct

from knowalledge.core.context import Priority, RequestContext
from knowalledge.core.trace_context import UNTRACED, Trace
from knowalledge.gateway.domain.answer import Answer, Chunk, Completion, Embeddings, Usage
from knowalledge.gateway.domain.events import Event
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.domain.request import Request
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import TokenCost


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


class Gateway(Protocol):
    """The use cases behind every dialect, with or without caches. Each raises ``KnowalledgeError`` subclasses only."""

    def complete(self, context: RequestContext, request: Request) -> Answer: ...

    def stream(self, context: RequestContext, request: Request) -> Generator[Sequence[Event], None, None]:
        """The events of one answer, in the batches in which they arrive. Closing the generator cancels the call."""
        ...

    def embed(
        self, context: RequestContext, model: str, inputs: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, str]:
        """One vector for each input, and the name of the target that made them."""
        ...

    def count_tokens(self, context: RequestContext, request: Request) -> int: ...

    def models(self) -> tuple[str, ...]:
        """The names that clients may use, in the order of the configuration."""
        ...

    def model(self, name: str) -> str:
        """A model's own name. Raises ``UnknownModel``."""
        ...


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
    ending: QueueOutcome | None = None  # how it left the waiting room, if it was in one
    first_token_s: float | None = None
    error: str = ""  # the error's code
    trace: Trace = UNTRACED


class Telemetry(Protocol):
    """What the service tells about itself; one record a request."""

    def request(self, record: Record) -> None: ...

    def upstream(self, target: str, outcome: Outcome, seconds: float) -> None: ...

    def refused(self, target: str, reason: RefusalReason) -> None:
        """The quota of a target gave neither a grant nor a place."""
        ...

    def settled(self, target: str, estimate: TokenCost, true: TokenCost) -> None:
        """A reservation was settled."""
        ...

    def uncounted(self, target: str) -> None:
        """An answer came without a count of its tokens that could be believed: the estimate stands."""
        ...
