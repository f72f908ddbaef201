"""OpenAI's dialect in and out: a body for a provider that speaks it too, and that provider's words for the client."""

from typing import Any

import msgspec
from msgspec import Raw, Struct
from msgspec.structs import replace

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.passthrough import Source, Verbatim, frames, read_fields
from knowalledge.gateway.domain.prompt import Message, Prompt, Text, Tool

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_MAX_TEXTS = 100_000


def source_of(body: bytes, untranslatable: InvalidRequest | None = None) -> Source:
    """A valid body for a target of this dialect. ``untranslatable``: what no other dialect carries."""
    fields = read_fields(body)
    fields.pop("model", None)
    fields.pop("stream", None)
    options = fields.pop("stream_options", None)
    rest = b""
    if options is not None and bytes(options) != b"null":
        others = read_fields(bytes(options))
        others.pop("include_usage", None)
        rest = _encode(others) if others else b""
    fault = ("", "") if untranslatable is None else (untranslatable.param, untranslatable.message)
    return Source("openai", _encode(fields), fault, rest)


class Envelope(Struct):
    """What is read of a body that holds something only its provider understands."""

    messages: list[dict[str, Any]]
    model: str = ""
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    temperature: float | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[Raw] = []


_envelope = msgspec.json.Decoder(Envelope)


def read_envelope(body: bytes) -> Envelope | None:
    """None if the body is not even this."""
    try:
        envelope = _envelope.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return envelope if envelope.messages else None


def opaque_prompt(envelope: Envelope, body: bytes, unknown: InvalidRequest) -> Prompt:
    """A prompt for the estimate alone: its one message has all texts. Only the same dialect can serve it."""
    texts: list[Text] = []
    _collect(envelope.messages, texts)
    return Prompt(
        (Message("user", tuple(texts)),),
        max_output_tokens=envelope.max_completion_tokens or envelope.max_tokens,
        temperature=envelope.temperature,
        tools=tuple(Tool("", "", bytes(it).decode()) for it in envelope.tools),
        source=source_of(body, unknown),
    )


def _collect(value: Any, texts: list[Text]) -> None:
    """The texts in a JSON value; those that are media (``data:`` addresses) do not count as text."""
    if len(texts) >= _MAX_TEXTS:
        return
    if isinstance(value, str):
        if value and not value.startswith("data:"):
            texts.append(Text(value))
        return
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _collect(item, texts)


class Heading(Struct, frozen=True):
    """What a response says of itself, for servers that leave it out. ``created``: seconds since the epoch."""

    id: str
    created: int
    model: str


def _complete(data: bytes, heading: Heading, kind: str) -> bytes:
    """A response or an event with the fields without which SDKs skip it; those that it has stay."""
    document = _decode(data)
    given = {name: value for name, value in document.items() if value is not None}
    document |= {
        "id": heading.id,
        "object": kind,
        "created": heading.created,
        "model": heading.model,
        **given,
    }
    for index, choice in enumerate(document.get("choices") or ()):
        choice.setdefault("index", index)
        if isinstance(message := choice.get("message"), dict):
            message.setdefault("role", "assistant")
            message.setdefault("content", None)
    return _encode(document)


def event_data(verbatim: Verbatim, heading: Heading) -> bytes:
    """A provider's words as events. A whole response becomes the events of a stream with that one answer."""
    if verbatim.lacks_fields:
        kind = "chat.completion" if verbatim.whole else "chat.completion.chunk"
        verbatim = replace(verbatim, data=tuple(_complete(it, heading, kind) for it in verbatim.data))
    if not verbatim.whole:
        return frames(verbatim.data) if verbatim.data else b""
    document = _decode(verbatim.data[0])
    document.pop("usage", None)
    document["object"] = "chat.completion.chunk"
    ends = []
    for choice in document.get("choices") or ():
        choice["delta"] = delta = choice.pop("message", None) or {}
        for index, call in enumerate(delta.get("tool_calls") or ()):
            call.setdefault("index", index)
        end = {"index": choice.get("index", 0), "delta": {}, "finish_reason": choice.get("finish_reason")}
        choice["finish_reason"] = None
        ends.append(end)
    return frames((_encode(document), _encode({**document, "choices": ends})))


def usage_data(verbatim: Verbatim, heading: Heading) -> bytes:
    """The event that reports usage, for a client that asked for it; empty if the provider's words have none."""
    data = verbatim.data[0] if verbatim.whole else verbatim.usage
    if data and verbatim.lacks_fields:
        data = _complete(data, heading, "chat.completion.chunk")
    if not verbatim.whole:
        return frames((data,)) if data else b""
    document = _decode(data)
    if not isinstance(document.get("usage"), dict):
        return b""
    return frames((_encode({**document, "object": "chat.completion.chunk", "choices": []}),))


def whole_body(verbatim: Verbatim, heading: Heading) -> bytes:
    """A provider's words as one response. The events of a stream are added up, as the ``openai`` SDK does."""
    body = verbatim.data[0] if verbatim.whole else _added_up(verbatim)
    return _complete(body, heading, "chat.completion") if verbatim.lacks_fields else body


def _added_up(verbatim: Verbatim) -> bytes:
    total: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for data in verbatim.data:
        document = _decode(data)
        for choice in document.pop("choices", None) or ():
            number = choice.get("index", 0)
            merged = choices.setdefault(number, {"index": number, "message": {}, "finish_reason": None})
            _merge(merged["message"], choice.pop("delta", None) or {})
            for name, value in choice.items():
                if value is not None and isinstance(merged.get(name), dict) and isinstance(value, dict):
                    _merge(merged[name], value)
                elif value is not None or name not in merged:
                    merged[name] = value
        total.update({name: value for name, value in document.items() if value is not None})
    if verbatim.usage:
        total["usage"] = _decode(verbatim.usage).get("usage")
    for choice in choices.values():
        for call in choice["message"].get("tool_calls") or ():
            call.pop("index", None)
    total.pop("obfuscation", None)
    return _encode({**total, "object": "chat.completion", "choices": [choices[it] for it in sorted(choices)]})


def _merge(total: dict[str, Any], delta: dict[str, Any]) -> None:
    """Add a delta to what came before: texts and lists grow, list elements with one index become one."""
    for name, value in delta.items():
        before = total.get(name)
        if before is None or name in ("index", "type", "role", "id"):
            total[name] = before if value is None else value
            if isinstance(value, list):
                total[name] = []
                _merge_lists(total[name], value)
        elif isinstance(before, str) and isinstance(value, str):
            total[name] = before + value
        elif isinstance(before, dict) and isinstance(value, dict):
            _merge(before, value)
        elif isinstance(before, list) and isinstance(value, list):
            _merge_lists(before, value)
        elif value is not None:
            total[name] = value


def _merge_lists(total: list[Any], more: list[Any]) -> None:
    for item in more:
        index = item.get("index") if isinstance(item, dict) else None
        same = next((it for it in total if isinstance(it, dict) and it.get("index") == index), None)
        if index is None or same is None:
            total.append(item)
        else:
            _merge(same, item)
