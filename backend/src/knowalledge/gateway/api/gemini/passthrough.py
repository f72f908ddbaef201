"""Gemini's dialect in and out: a body for a provider that speaks it too, and that provider's words for the client."""

from typing import Any

import msgspec

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.passthrough import Source, Verbatim, frames, read_fields

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


def source_of(body: bytes, untranslatable: InvalidRequest | None, lacks_role: bool) -> Source:
    """A valid body for a target of this dialect. ``untranslatable``: what no other dialect carries.

    ``lacks_role``: a turn has no role, which the Gemini API reads as the user's and Vertex AI refuses.
    """
    fields = read_fields(body)
    fields.pop("model", None)
    if lacks_role:
        contents = msgspec.json.decode(fields["contents"])
        for content in contents if isinstance(contents, list) else (contents,):
            content["role"] = content.get("role") or "user"
        fields["contents"] = contents
    fault = ("", "") if untranslatable is None else (untranslatable.param, untranslatable.message)
    return Source("gemini", _encode(fields), fault)


def whole_body(verbatim: Verbatim) -> bytes:
    """A provider's words as one response: the last event of a stream with the parts of all."""
    if verbatim.whole or len(verbatim.data) == 1:
        return verbatim.data[0]
    parts: list[Any] = []
    total: dict[str, Any] = {}
    candidate: dict[str, Any] = {}
    for data in verbatim.data:
        document = _decode(data)
        for other in (document.pop("candidates", None) or ())[:1]:
            content = other.pop("content", None) or {}
            for part in content.get("parts") or ():
                _add(parts, part)
            candidate.update(other)
        total.update(document)
    candidate["content"] = {"role": "model", "parts": parts}
    return _encode({"candidates": [candidate], **total})


def _add(parts: list[Any], part: dict[str, Any]) -> None:
    """Add a part; text goes on with the text before it, if neither is a thought or signed unlike the other."""
    before = parts[-1] if parts else {}
    plain = set(part) <= {"text", "thought"} and set(before) <= {"text", "thought"} and "text" in before
    if plain and "text" in part and part.get("thought") == before.get("thought"):
        parts[-1] = {**before, "text": before["text"] + part["text"]}
    else:
        parts.append(part)


def elements(verbatim: Verbatim, as_array: bool, is_first: bool) -> bytes:
    """A provider's words as server-sent events, or as elements of one JSON array; empty if there are none."""
    if not verbatim.data:
        return b""
    if not as_array:
        return frames(verbatim.data)
    return (b"[" if is_first else b",") + b",".join(verbatim.data)
