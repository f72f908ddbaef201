"""One request and its response, independent of the dialect."""

from collections.abc import Mapping
from typing import Any, Literal, Protocol

from msgspec import Struct

from knowalledge_simulator.window import Rejection

Kind = Literal["generate", "count", "embed", "model", "models"]


class Call(Struct, frozen=True):
    """A parsed request."""

    kind: Kind
    dialect: "Dialect"
    model: str = ""
    key: str = ""  # of its quota: the model, for Vertex with its location
    tokens: int = 0  # input
    marked_tokens: int | None = None  # output that the prompt's marker requests
    max_tokens: int | None = None  # output that the caller allows
    stream: bool = False
    sse: bool = True  # Google streams a JSON array unless events are requested
    usage: bool = True  # whether a stream ends with token counts
    inputs: tuple[str, ...] = ()  # texts to embed
    dimensions: int = 768
    single: bool = False  # one embedding requested, not a batch
    predict: bool = False  # Vertex's predict method for embeddings
    candidates: int = 1
    schema_text: str = ""  # the answer, if the request has a schema


class Usage(Struct, frozen=True):
    """The token counts of an answer."""

    input: int
    output: int
    thinking: int = 0


class ErrorResponse(Struct, frozen=True):
    """A response with an error status."""

    status: int
    body: dict[str, Any]
    headers: Mapping[str, str] = {}


class Dialect(Protocol):
    """Response bodies in one API's format. ``usage`` None leaves the counts out."""

    def completion(self, call: Call, text: str, finish: str, usage: Usage | None) -> dict[str, Any]:
        """A complete answer. ``finish``: stop, length, safety, or empty for an answer without a candidate."""
        ...

    def chunk(self, call: Call, text: str, first: bool) -> dict[str, Any]:
        """One event of a stream, except at its end."""
        ...

    def final_chunks(self, call: Call, text: str, finish: str, usage: Usage | None) -> list[dict[str, Any]]:
        """The events at the end of a stream."""
        ...

    def embeddings(self, call: Call, vectors: list[tuple[float, ...]]) -> dict[str, Any]: ...

    def models(self, names: list[str], single: bool) -> dict[str, Any]: ...

    def quota_error(self, call: Call, rejection: Rejection | None) -> ErrorResponse:
        """A 429; with None it names neither quota nor time."""
        ...

    def error(self, status: int, message: str) -> ErrorResponse: ...

    @property
    def terminator(self) -> bytes:
        """The bytes after the last event of a stream."""
        ...
