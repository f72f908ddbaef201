"""What the dialects share when they turn a body into a prompt. ``param`` names the field for the error."""

from base64 import b64decode
from collections.abc import Sequence
from mimetypes import guess_type
from typing import Any
from urllib.parse import urlsplit

import msgspec
from msgspec import Raw, UnsetType

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.prompt import FileRef, Message, Text, ToolCall, ToolResult

# Tokens to think with, by the name of an effort or a level, as Google's own OpenAI-compatible endpoint reads them
# (ai.google.dev/gemini-api/docs/openai).
THINKING_TOKENS = {"none": 0, "minimal": 1024, "low": 1024, "medium": 8192, "high": 24_576, "xhigh": 24_576}

_object = msgspec.json.Decoder(dict[str, Any])
_URL_SAFE = str.maketrans("-_", "+/", "\r\n")


def json_object(text: bytes | str | Raw, param: str) -> str:
    """The text unchanged. Raises ``InvalidRequest`` unless it is one JSON object.

    Other text could break out of the place in a provider's request that it is put into.
    """
    try:
        _object.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest("this must be a JSON object", param=param) from error
    return text if isinstance(text, str) else bytes(text).decode()


def optional_json_object(given: Raw | UnsetType, param: str) -> str:
    """``json_object``; empty for a field that is absent or null."""
    if isinstance(given, UnsetType) or bytes(given) == b"null":
        return ""
    return json_object(given, param)


def base64_bytes(data: str, param: str) -> bytes:
    """Inline media, in either alphabet of RFC 4648, with or without padding. Raises ``InvalidRequest``."""
    try:
        plain = data.translate(_URL_SAFE)
        return b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except ValueError as error:
        raise InvalidRequest("the data is not base64", param=param) from error


def file_ref(url: str, mime: str, param: str) -> FileRef:
    """Media by address. Without a ``mime`` type its path's extension tells it.

    Raises ``InvalidRequest`` for addresses that no provider fetches.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        parts = urlsplit("")
    if parts.scheme not in ("http", "https", "gs"):
        raise InvalidRequest("give an https: or gs: address", param=param)
    return FileRef(url, mime or guess_type(parts.path)[0] or "")


def in_call_order(results: Sequence[ToolResult], turns: Sequence[Message]) -> tuple[ToolResult, ...]:
    """Results in the order of the calls of the last turn, by which Google's APIs pair them; unknown ids go last."""
    calls = [it.id for turn in turns[-1:] for it in turn.parts if isinstance(it, ToolCall) and it.id]
    place = {call_id: number for number, call_id in reversed(tuple(enumerate(calls)))}
    return tuple(sorted(results, key=lambda it: place.get(it.id, len(calls))))


def non_empty(turns: Sequence[Message], param: str) -> tuple[Message, ...]:
    """The turns without blank text; those that hold nothing else are left out.

    Raises ``InvalidRequest`` if none is left.
    """
    kept: list[Message] = []
    for turn in turns:
        parts = tuple(it for it in turn.parts if not isinstance(it, Text) or it.text.strip())
        if parts:
            kept.append(turn if len(parts) == len(turn.parts) else Message(turn.role, parts))
    if not kept:
        raise InvalidRequest("there is no question: the prompt is empty", param=param)
    return tuple(kept)
