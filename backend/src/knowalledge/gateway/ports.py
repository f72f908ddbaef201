"""What the gateway needs from outside, as Protocols."""

from collections.abc import Generator, Sequence
from typing import Protocol

from msgspec import Struct

from knowalledge.core.context import Priority, RequestContext
from knowalledge.core.trace_context import UNTRACED, Trace
from knowalledge.gateway.domain.answer import Answer, Chunk, Completion, Embeddings, Usage
from knowalledge.gateway.domain.events import Event
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.domain.passthrough import DialectName
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.domain.request import Request
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import TokenCost


class Provider(Protocol):
    """One model at one address. ``timeout`` is in seconds, for the whole call: from its first header to its last byte.

    Raises only ``ProviderError`` subclasses, ``ProviderRejected`` and ``ContentBlocked``. Never retries: retries belong
    to the service, which knows the quota. A prompt has a ``source`` only if the target speaks its dialect: then that
    body is sent, and the answer is ``verbatim`` too.
    """

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        """One whole answer."""
        ...

    def stream(self, prompt: Prompt, timeout: float) -> Generator[Sequence[Chunk], None, None]:
        """The chunks of one answer in order; those that arrive together are yielded together, without waiting for more.

        An error is raised after the chunks that came before it. Closing the generator closes the connection.
        """
        ...

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        """One vector for each input, of so many dimensions; None: the model's own number."""
        ...

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        """Input tokens of the prompt."""
        ...

    def ping(self, timeout: float) -> None:
        """Cheap reachability for ``doctor`` and health checks; raises what a call would raise."""
        ...

    def close(self) -> None:
        """End all connections."""
        ...


class Gateway(Protocol):
    """The use cases behind every dialect, with or without caches. Each raises ``KnowalledgeError`` subclasses only."""

    def complete(self, context: RequestContext, request: Request) -> Answer:
        """One whole answer."""
        ...

    def stream(self, context: RequestContext, request: Request) -> Generator[Sequence[Event], None, None]:
        """The events of one answer, in the batches in which they arrive. Closing the generator cancels the call."""
        ...

    def embed(
        self, context: RequestContext, model: str, inputs: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, str]:
        """One vector for each input, and the name of the target that made them."""
        ...

    def count_tokens(self, context: RequestContext, request: Request) -> int:
        """Input tokens of the prompt, as the provider counts them."""
        ...

    def models(self) -> tuple[str, ...]:
        """The names that clients may use, in the order of the configuration."""
        ...

    def speaks(self, name: str, dialect: DialectName) -> bool:
        """Whether a body of this dialect may go on to a target of this model as it came."""
        ...

    def model(self, name: str) -> str:
        """A model's own name; for an empty one the default's. Raises ``UnknownModel``."""
        ...


class Record(Struct, frozen=True):
    """One request, recorded once, when it has ended. ``service.recording.record_of`` makes it."""

    request_id: str
    model: str  # from the configuration, or "unknown"
    target: str  # of the last call; "" if there was none
    outcome: Outcome
    priority: Priority
    seconds: float  # from its arrival to its end
    usage: Usage
    cache: str = "miss"  # ``CacheInfo.status``
    waited_s: float = 0.0  # in queues, over all calls
    queue_outcome: QueueOutcome | None = None  # of the last wait; None: it did not queue
    first_token_s: float | None = None  # from its arrival; None: it was not streamed, or had no content
    error: str = ""  # the error's code
    trace: Trace = UNTRACED


class Telemetry(Protocol):
    """What the gateway counts and logs. Targets and models are names from the configuration."""

    def record_request(self, record: Record) -> None:
        """A request has ended."""
        ...

    def record_attempt(self, target: str, outcome: Outcome, seconds: float) -> None:
        """A call of a provider has ended."""
        ...

    def record_refusal(self, target: str, reason: RefusalReason) -> None:
        """A target's quota gave neither a grant nor a place in its queue."""
        ...

    def record_settlement(self, target: str, estimate: TokenCost, actual: TokenCost) -> None:
        """A reservation was settled."""
        ...

    def record_uncounted(self, target: str) -> None:
        """An answer came without a believable count of its tokens, so the estimate stands."""
        ...
