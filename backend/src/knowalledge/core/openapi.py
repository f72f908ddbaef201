"""What a capability says of its routes for the OpenAPI document; ``web/docs`` makes the document of it."""

from collections.abc import Callable
from typing import Any, Literal

from msgspec import Struct

from knowalledge.core.access import Access

Schema = type[Struct]


class ErrorForm(Struct, frozen=True):
    """How one API writes a failure: ``body(error, request_id)`` gives the JSON document, of type ``schema``."""

    name: str  # in the document
    schema: Schema
    body: Callable[[BaseException, str], dict[str, Any]]
    media_type: str = "application/json"


class Answer(Struct, frozen=True):
    """What comes with 200: JSON of a type, or another media type; and the types of a stream's events."""

    body: Schema | str
    events: tuple[Schema, ...] = ()
    headers: tuple[str, ...] = ("X-Request-ID",)


class Operation(Struct, frozen=True, kw_only=True):
    """What one route does. ``rank`` orders the document, over all capabilities; equal ones keep their order."""

    rank: int
    method: Literal["get", "post", "delete"]
    path: str
    tag: str
    name: str  # unique: clients are generated with it
    summary: str
    answer: Answer
    errors: ErrorForm | None  # None: its errors are not described
    not_ready: str = ""  # what a 503 with the same body means, if there is one
    body: Schema | tuple[str, ...] | None = None  # JSON of a type, or other media types
    asks: bool = False  # calls a model, so the headers of a request for a model count
    query: tuple[dict[str, Any], ...] = ()
    access: Access | None = None  # where callers authenticate; None: nobody, and a test fails
