"""One request as the provider understands it, and one answer on its way out, in no dialect."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct

from knowalledge_simulator.window import Refusal

Kind = Literal["generate", "count", "embed", "model", "models"]


class Call(Struct, frozen=True):
    """What is asked for."""

    kind: Kind
    dialect: "Dialect"
    model: str = ""
    key: str = ""  # whose quota: the model, for Vertex with its location
    tokens: int = 0  # of input
    wanted: int | None = None  # output tokens that the prompt's marker asks for
    most: int | None = None  # output tokens that the caller allows
    stream: bool = False
    sse: bool = True  # Google streams a JSON array unless asked for events
    usage: bool = True  # whether a stream ends with a count
    inputs: tuple[str, ...] = ()  # to embed
    dimensions: int = 768
    single: bool = False  # one vector asked for, not a batch
    predict: bool = False  # Vertex' older way to ask for vectors
    candidates: int = 1
    said: str = ""  # what the answer's schema makes the model say


class Count(Struct, frozen=True):
    """Tokens as the answer tells them; None in ``Answer`` leaves them out."""

    input: int
    output: int
    thinking: int = 0


class Failure(Struct, frozen=True):
    """An error answer: its status, extra headers, and body."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = {}


class Dialect(Protocol):
    """How one API writes what happened."""

    def whole(self, call: Call, text: str, finish: str, count: Count | None) -> dict[str, Any]:
        """A complete answer. ``finish`` is stop, length, safety, or empty for no candidate at all."""
        ...

    def piece(self, call: Call, text: str, first: bool) -> dict[str, Any]:
        """One event in the middle of a stream."""
        ...

    def last(self, call: Call, text: str, finish: str, count: Count | None) -> list[dict[str, Any]]:
        """The events that end a stream."""
        ...

    def vectors(self, call: Call, vectors: list[tuple[float, ...]]) -> dict[str, Any]: ...

    def described(self, names: list[str], single: bool) -> dict[str, Any]: ...

    def refusal(self, call: Call, refusal: Refusal | None) -> Failure:
        """A 429; None names neither quota nor time."""
        ...

    def failure(self, status: int, message: str) -> Failure: ...

    @property
    def end(self) -> bytes:
        """What comes after the last event of a stream."""
        ...
