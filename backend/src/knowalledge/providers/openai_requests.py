"""Requests of OpenAI's API from a Prompt, or from the body of a client that speaks it too."""

from base64 import b64encode
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec
from msgspec import Raw
from msgspec.structs import replace

from knowalledge.core import errors as e
from knowalledge.gateway.domain.passthrough import Source
from knowalledge.gateway.domain.prompt import (
    Blob,
    FileRef,
    Message,
    Part,
    Prompt,
    Text,
    ToolCall,
    ToolResult,
)
from knowalledge.providers.rejections import rejection

_encode = msgspec.json.Encoder().encode
# The limit's name at OpenAI itself; other servers know max_tokens alone.
OPENAI_LIMIT = "max_completion_tokens"
# The efforts that OpenAI names, each with the most tokens of a budget that it stands for.
_EFFORTS = (("none", 0), ("low", 1024), ("medium", 8192), ("high", 10**9))


def request_body(
    model: str,
    prompt: Prompt,
    stream: bool,
    limit_name: str = "max_tokens",
    own_fields: Mapping[str, Any] | None = None,
) -> bytes:
    """A Prompt as the body of chat/completions. ``limit_name``: the server's field for ``max_output_tokens``."""
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for message in with_ids(prompt.messages):
        messages.extend(_messages(message))
    body: dict[str, Any] = {"model": model, "messages": messages}
    if prompt.top_k is not None and limit_name == OPENAI_LIMIT:
        raise rejection(400, "OpenAI has no top_k", param="top_k")
    for name, value in (
        (limit_name, prompt.max_output_tokens),
        ("temperature", prompt.temperature),
        ("top_p", prompt.top_p),
        ("seed", prompt.seed),
        ("stop", prompt.stop or None),
        ("presence_penalty", prompt.presence_penalty),
        ("frequency_penalty", prompt.frequency_penalty),
        ("reasoning_effort", prompt.thinking_level or _effort(prompt.thinking_budget)),
        ("top_k", prompt.top_k),
    ):
        if value is not None:
            body[name] = value
    if prompt.json_schema:
        raw = _raw(prompt.json_schema)
        schema = {"name": "answer", "strict": _is_closed(msgspec.json.decode(raw)), "schema": raw}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    elif prompt.json:
        body["response_format"] = {"type": "json_object"}
    if prompt.tools:
        body["tools"] = [
            {
                "type": "function",
                "function": {
                    "name": tool.name,
                    "description": tool.description,
                    "parameters": _raw(tool.parameters or '{"type":"object"}'),
                },
            }
            for tool in prompt.tools
        ]
        if prompt.tool_choice in ("auto", "none", "required"):
            body["tool_choice"] = prompt.tool_choice
        elif prompt.tool_choice:
            body["tool_choice"] = {"type": "function", "function": {"name": prompt.tool_choice}}
    if stream:
        body["stream"] = True
        body["stream_options"] = {"include_usage": True}
    return _encode({**body, **(own_fields or {})})


def _effort(budget: int | None) -> str | None:
    """A thinking budget in tokens by the name of an effort; None for the model's own (-1) or none given."""
    if budget is None or budget < 0:
        return None
    return next(name for name, most in _EFFORTS if budget <= most)


def _is_closed(schema: Any) -> bool:
    """Whether OpenAI takes a schema as strict: each object lists, and demands, all of its properties."""
    if isinstance(schema, list):
        return all(map(_is_closed, schema))
    if not isinstance(schema, dict):
        return True
    properties = schema.get("properties")
    if schema.get("type") == "object" or isinstance(properties, dict):
        names = set(properties) if isinstance(properties, dict) else set()
        required = schema.get("required")
        if schema.get("additionalProperties") is not False:
            return False
        if names != (set(required) if isinstance(required, list) else set()):
            return False
    return all(map(_is_closed, schema.values()))


def passed_body(model: str, source: Source, stream: bool) -> bytes:
    """The client's own body for this server: only the model's name and the fields of streams are ours."""
    head = b'{"model":%b,' % _encode(model)
    if stream:
        options = source.stream_options
        wanted = b'{"include_usage":true,%b' % options[1:] if options else b'{"include_usage":true}'
        head += b'"stream":true,"stream_options":%b,' % wanted
    return head + source.body[1:]


def with_ids(messages: tuple[Message, ...]) -> Iterator[Message]:
    """The messages with an id on each call, unique in the conversation, and that id on its result.

    Google's clients may leave ids out; then results belong to the calls of their function in turn.
    """
    used: set[str] = set()
    waiting: list[tuple[str, ToolCall]] = []  # the id that a call has now, and the call
    for number, message in enumerate(messages):
        parts: list[Part] = []
        if any(isinstance(it, ToolCall) for it in message.parts):
            waiting.clear()  # results belong to the last turn with calls
        for part in message.parts:
            if isinstance(part, ToolCall):
                own = part.id if part.id and part.id not in used else f"call_{number}_{len(parts)}"
                used.add(own)
                waiting.append((own, part))
                part = replace(part, id=own)
            elif isinstance(part, ToolResult):
                match = _call_of_result(part, waiting)
                if match is not None:
                    waiting.remove(match)
                    part = replace(part, id=match[0])
            parts.append(part)
        yield Message(message.role, tuple(parts))


def _call_of_result(result: ToolResult, waiting: list[tuple[str, ToolCall]]) -> tuple[str, ToolCall] | None:
    """The call that a result answers: by its id, else the first without a result that has its function's name."""
    if result.id:
        by_id = next((it for it in waiting if it[1].id == result.id), None)
        if by_id is not None:
            return by_id
    return next((it for it in waiting if it[1].name == result.name and not (it[1].id and result.id)), None)


def _raw(text: str) -> Raw:
    """JSON text, validated, to be embedded unchanged in a request. Raises ``ProviderRejected``."""
    try:
        return msgspec.json.decode(text, type=Raw)
    except msgspec.DecodeError as error:
        raise e.ProviderRejected("a schema in the request is not JSON") from error


def _messages(message: Message) -> list[dict[str, Any]]:
    """One message in this dialect's form. Its tool results become messages of their own, ahead of its other parts."""
    results: list[dict[str, Any]] = [
        {"role": "tool", "tool_call_id": it.id or it.name, "content": it.content}
        for it in message.parts
        if isinstance(it, ToolResult)
    ]
    calls = [
        {
            "id": it.id or it.name,
            "type": "function",
            "function": {"name": it.name, "arguments": it.arguments or "{}"},
        }
        for it in message.parts
        if isinstance(it, ToolCall)
    ]
    content = [_content_part(part) for part in message.parts if isinstance(part, Text | Blob | FileRef)]
    if not content and not calls and results:
        return results
    compact: Any = content
    if all(part["type"] == "text" for part in content):
        compact = "".join(part["text"] for part in content)
    role = "user" if message.role == "tool" else message.role
    converted: dict[str, Any] = {"role": role, "content": compact or (None if calls else "")}
    if calls:
        converted["tool_calls"] = calls
    return [*results, converted]


def _content_part(part: Text | Blob | FileRef) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Blob(mime, data):
            return _medium(mime, data)
        case FileRef(uri, mime):
            if uri.startswith("gs:") or "/v1beta/files/" in uri:
                raise rejection(
                    400, "files at Google are out of this provider's reach: send the data", param="fileData"
                )
            if mime and not mime.startswith("image/"):
                raise rejection(400, f"only images may be addresses here, not {mime}", param="fileData")
            return {"type": "image_url", "image_url": {"url": uri}}


_SOUNDS = {
    "audio/wav": "wav",
    "audio/x-wav": "wav",
    "audio/wave": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}


def _medium(mime: str, data: bytes) -> dict[str, Any]:
    """Inline media in the part that its kind has. Raises ``ProviderRejected`` for kinds without one."""
    kind = mime.partition("/")[0]
    if kind == "text":
        return {"type": "text", "text": data.decode(errors="replace")}
    text = b64encode(data).decode()
    if mime in _SOUNDS:
        return {"type": "input_audio", "input_audio": {"data": text, "format": _SOUNDS[mime]}}
    if kind in ("audio", "video"):
        raise rejection(400, f"this provider takes wav and mp3, not {mime}", param="inlineData")
    url = f"data:{mime};base64,{text}"
    if kind == "image":
        return {"type": "image_url", "image_url": {"url": url}}
    name = f"document.{mime.rpartition('/')[2][:20]}"
    return {"type": "file", "file": {"filename": name, "file_data": url}}
