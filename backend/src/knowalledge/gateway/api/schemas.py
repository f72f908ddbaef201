"""What the bodies of all dialects share: bounds, reading, and the rule that there must be a question."""

from base64 import b64decode
from collections.abc import Sequence
from mimetypes import guess_type
from typing import Annotated, Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Meta, Raw, UnsetType

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.prompt import FileRef, Message, Text

MAX_MESSAGES = 1000
MAX_OUTPUT = 65_536
MAX_STOPS = 16
MAX_TOOLS = 512
# Tokens to think with, as Google's own OpenAI-compatible endpoint reads them (ai.google.dev/gemini-api/docs/openai).
THINKING = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576}

ModelName = Annotated[str, Meta(max_length=200)]
Temperature = Annotated[float, Meta(ge=0, le=2)]
Share = Annotated[float, Meta(ge=0, le=1)]
Penalty = Annotated[float, Meta(ge=-2, le=2)]
Output = Annotated[int, Meta(ge=1, le=MAX_OUTPUT)]
Seed = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
Dimensions = Annotated[int, Meta(ge=1, le=65_536)]

# A JSON object that the gateway only carries.
Carried = Annotated[Raw, Meta(extra_json_schema={"type": "object"})]

_object = msgspec.json.Decoder(dict[str, Any])


def json_object(text: bytes | str | Raw, where: str) -> str:
    """JSON text that the gateway only carries, unchanged. Raises ``InvalidRequest`` unless it is one JSON object:
    what is not could break out of the place that it is put into on the way to the provider."""
    try:
        _object.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("this must be a JSON object", param=where) from error
    return text if isinstance(text, str) else bytes(text).decode()


def carried(given: Raw | UnsetType, where: str) -> str:
    """A JSON object in its own text, or nothing if it was not given."""
    if isinstance(given, UnsetType) or bytes(given) == b"null":
        return ""
    return json_object(given, where)


def base64_bytes(data: str, where: str) -> bytes:
    """Inline media; both alphabets of base64 are read, with and without padding."""
    try:
        plain = data.translate(_URL_SAFE)
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        raise InvalidRequest("the data is not base64", param=where) from error


_URL_SAFE = str.maketrans("-_", "+/", "\r\n")


def reference(url: str, mime: str, where: str) -> FileRef:
    """Media by address. Raises ``InvalidRequest`` for addresses that no provider could fetch."""
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https", "gs"):
        raise InvalidRequest("give an https: or gs: address", param=where)
    return FileRef(url, mime or guess_type(parts.path)[0] or "")


def with_question(turns: Sequence[Message], param: str) -> tuple[Message, ...]:
    """The turns without what is empty. Raises ``InvalidRequest`` if nothing is left to answer."""
    found = []
    for turn in turns:
        parts = tuple(part for part in turn.parts if not isinstance(part, Text) or part.text.strip())
        if parts:
            found.append(turn if len(parts) == len(turn.parts) else Message(turn.role, parts))
    if not found:
        raise InvalidRequest("there is no question: the prompt is empty", param=param)
    return tuple(found)
