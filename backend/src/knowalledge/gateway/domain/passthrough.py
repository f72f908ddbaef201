"""A request and its answer as client and provider wrote them, for when both speak the same dialect.

The body then goes on as it came, so a field that the gateway does not know travels too, and the answer comes back as
the provider wrote it. The gateway reads both beside that: a prompt for its estimate, text, finish and usage.
"""

from typing import Any, Literal

import msgspec
from msgspec import Raw, Struct

# The APIs in which a provider may be spoken to and a client may speak.
DialectName = Literal["openai", "gemini"]

# Fields that cannot change an answer, so requests that differ in them alone share a cached one.
_NOT_IN_KEY = frozenset(
    ("user", "metadata", "store", "safety_identifier", "prompt_cache_key", "prompt_cache_retention", "labels")
)
_read_fields = msgspec.json.Decoder(dict[str, Raw]).decode
_encode = msgspec.json.Encoder(order="sorted").encode


class Source(Struct, frozen=True):
    """A request's body, one JSON object, without the fields that belong to the gateway (model, stream and its options).

    ``untranslatable`` is what no other dialect carries: the field at fault and the reason, both empty if there is none.
    ``stream_options`` are the caller's, a JSON object without ``include_usage``; empty for none.
    """

    dialect: DialectName
    body: bytes
    untranslatable: tuple[str, str] = ("", "")
    stream_options: bytes = b""

    def canonical(self) -> bytes:
        """Everything of the body that may change the answer, the same for equal fields in another order."""
        fields = {name: value for name, value in _read_fields(self.body).items() if name not in _NOT_IN_KEY}
        return msgspec.json.format(_encode(fields), indent=-1)


class Verbatim(Struct, frozen=True):
    """A provider's own words in ``dialect``: the data of events in their order, or one ``whole`` response.

    ``usage`` is an event that reports nothing but usage, which a client gets only if it asked for it; empty for none.
    ``lacks_fields``: something that the dialect's clients rely on, such as an id, is missing and must be added.
    """

    dialect: DialectName
    data: tuple[bytes, ...] = ()
    usage: bytes = b""
    whole: bool = False
    lacks_fields: bool = False


def frames(data: tuple[bytes, ...]) -> bytes:
    """Data as server-sent events (html.spec.whatwg.org, 9.2.6); one with line breaks gets a field for each line."""
    if len(data) == 1 and b"\n" not in data[0] and b"\r" not in data[0]:
        return b"data: %b\n\n" % data[0]
    joined = b"\n\ndata: ".join(data)
    if joined.count(b"\n") != 2 * (len(data) - 1) or b"\r" in joined:
        lines = (it.replace(b"\r", b" ").replace(b"\n", b"\ndata: ") for it in data)
        joined = b"\n\ndata: ".join(lines)
    return b"data: " + joined + b"\n\n"


def read_fields(body: bytes) -> dict[str, Any]:
    """The fields of a JSON object, each still as its own text (``msgspec.Raw``)."""
    return _read_fields(body)
