"""What the service needs from the outside, as Protocols. Adapters implement; ``app.py`` joins."""

from collections.abc import Iterator
from typing import Protocol

from knowalledge.domain.model import Chunk, Completion, Embeddings, Prompt


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

    def stream(self, prompt: Prompt, timeout: float) -> Iterator[Chunk]: ...

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings: ...

    def count_tokens(self, prompt: Prompt, timeout: float) -> int: ...

    def ping(self, timeout: float) -> None:
        """Cheap reachability for ``doctor`` and health: raises what a call would raise."""
        ...

    def close(self) -> None: ...
