"""OpenAI's chat dialect, towards any server that speaks it: OpenAI, vLLM, Ollama, llama.cpp.

Source: platform.openai.com/docs/api-reference/chat. Fields that only newer servers know are not sent unless asked for.
"""

from base64 import b64encode
from collections.abc import Generator, Mapping
from math import ceil
from typing import Any, NoReturn

import msgspec

from knowalledge.adapters.providers.http import Http
from knowalledge.domain import errors as e
from knowalledge.domain.estimate import weigh
from knowalledge.domain.model import (
    Blob,
    Chunk,
    Completion,
    Embeddings,
    FileRef,
    Finish,
    Message,
    Prompt,
    Text,
    ToolCall,
    ToolResult,
    Usage,
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.SAFETY,
}
ABSURD_TOKENS = 100_000_000


def request_body(model: str, prompt: Prompt, stream: bool) -> bytes:
    """A Prompt as the body of chat/completions."""
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for message in prompt.messages:
        messages.extend(_messages(message))
    body: dict[str, Any] = {"model": model, "messages": messages}
    for name, value in (
        ("max_tokens", prompt.max_output_tokens),
        ("temperature", prompt.temperature),
        ("top_p", prompt.top_p),
        ("seed", prompt.seed),
        ("stop", prompt.stop or None),
        ("presence_penalty", prompt.presence_penalty),
        ("frequency_penalty", prompt.frequency_penalty),
    ):
        if value is not None:
            body[name] = value
    if prompt.json_schema:
        schema = {"name": "answer", "strict": True, "schema": msgspec.Raw(prompt.json_schema.encode())}
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
                    "parameters": msgspec.Raw(tool.parameters.encode() or b'{"type":"object"}'),
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
    return _encode(body)


def _messages(message: Message) -> list[dict[str, Any]]:
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    if results:
        return [{"role": "tool", "tool_call_id": it.id or it.name, "content": it.content} for it in results]
    calls = [
        {"id": it.id or it.name, "type": "function", "function": {"name": it.name, "arguments": it.arguments}}
        for it in message.parts
        if isinstance(it, ToolCall)
    ]
    content = [_piece(part) for part in message.parts if isinstance(part, Text | Blob | FileRef)]
    plain: Any = content
    if all(piece["type"] == "text" for piece in content):
        plain = "".join(piece["text"] for piece in content)
    found: dict[str, Any] = {"role": message.role, "content": plain or (None if calls else "")}
    if calls:
        found["tool_calls"] = calls
    return [found]


def _piece(part: Text | Blob | FileRef) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Blob(mime, data):
            return {
                "type": "image_url",
                "image_url": {"url": f"data:{mime};base64,{b64encode(data).decode()}"},
            }
        case FileRef(uri):
            return {"type": "image_url", "image_url": {"url": uri}}


def read_completion(body: bytes) -> Completion:
    document = _document(body)
    choices = document.get("choices")
    if not isinstance(choices, list) or not choices or not isinstance(choices[0], dict):
        raise e.ProviderGarbage("the provider answered without a choice")
    message = choices[0].get("message")
    if not isinstance(message, dict):
        raise e.ProviderGarbage("the provider's choice holds no message")
    text = message.get("content")
    parts: list[Text | ToolCall] = [Text(text)] if isinstance(text, str) and text else []
    for call in message.get("tool_calls") or ():
        function = call.get("function", {}) if isinstance(call, dict) else {}
        parts.append(
            ToolCall(
                str(function.get("name", "")), str(function.get("arguments", "{}")), str(call.get("id", ""))
            )
        )
    if not parts and not choices[0].get("finish_reason"):
        raise e.ProviderGarbage("the provider answered with an empty choice")
    finish = _FINISH.get(str(choices[0].get("finish_reason")), Finish.OTHER)
    return Completion(
        tuple(parts), finish, read_usage(document.get("usage")), str(document.get("model", ""))[:200]
    )


def read_usage(found: object) -> Usage | None:
    """usage, or None where it is missing or absurd. Reasoning tokens are part of completion_tokens here."""
    if not isinstance(found, dict):
        return None
    completion = found.get("completion_tokens_details") or {}
    prompt = found.get("prompt_tokens_details") or {}
    counts = [
        found.get("prompt_tokens") or 0,
        found.get("completion_tokens") or 0,
        (completion.get("reasoning_tokens") or 0) if isinstance(completion, dict) else 0,
        (prompt.get("cached_tokens") or 0) if isinstance(prompt, dict) else 0,
    ]
    if not all(type(count) is int and 0 <= count <= ABSURD_TOKENS for count in counts) or not counts[0]:
        return None
    given, output, thinking, cached = counts
    return Usage(given, max(0, output - thinking), min(thinking, output), cached)


def _document(body: bytes) -> dict[str, Any]:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.ProviderGarbage("the provider's answer is not a JSON object") from error


def raise_error(status: int, headers: Mapping[str, Any]) -> NoReturn:
    if status == 429:
        after = headers.get("retry-after")
        usable = isinstance(after, str) and after.isdecimal() and len(after) < 7
        raise e.ProviderRateLimited(
            "the provider's quota is spent", retry_after=float(str(after)) if usable else None
        )
    if status in (401, 403):
        raise e.ProviderAuth("the provider does not accept our credentials")
    if status in (408, 504):
        raise e.ProviderTimeout("the provider gave up: its own deadline passed")
    if 400 <= status < 500:
        raise e.ProviderRejected(f"the provider does not take this request ({status})")
    raise e.ProviderUnavailable(f"the provider failed ({status})")


class _Fragments:
    """Tool calls come in pieces by index; they are given on when they are whole."""

    def __init__(self) -> None:
        self._calls: dict[int, list[str]] = {}

    def add(self, pieces: object) -> None:
        for piece in pieces if isinstance(pieces, list) else []:
            if not isinstance(piece, dict):
                continue
            index = piece.get("index")
            call = self._calls.setdefault(index if isinstance(index, int) else 0, ["", "", ""])
            function = piece.get("function") or {}
            call[0] = str(piece.get("id") or call[0])
            call[1] += str(function.get("name") or "")
            call[2] += str(function.get("arguments") or "")

    def whole(self) -> tuple[ToolCall, ...]:
        found = tuple(ToolCall(name, arguments or "{}", key) for key, name, arguments in self._calls.values())
        self._calls = {}
        return found


class OpenAi:
    """Implements ``Provider``. The base URL ends before ``/chat/completions``."""

    def __init__(self, http: Http, model: str, api_key: str) -> None:
        self._http = http
        self._model = model
        self._headers = {"content-type": "application/json"}
        if api_key:
            self._headers["authorization"] = f"Bearer {api_key}"

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        return read_completion(
            self._post("/chat/completions", request_body(self._model, prompt, False), timeout)
        )

    def stream(self, prompt: Prompt, timeout: float) -> Generator[Chunk, None, None]:
        body = request_body(self._model, prompt, True)
        events = self._http.events("/chat/completions", body, self._headers, timeout)
        fragments, finish, usage, version = _Fragments(), None, None, ""
        try:
            while True:
                try:
                    data = next(events)
                except StopIteration as end:
                    if end.value is not None:
                        raise_error(end.value.status, end.value.headers)
                    break
                if data == b"[DONE]":
                    break
                document = _document(data)
                if isinstance(document.get("error"), dict):
                    code = document["error"].get("code")
                    raise_error(code if isinstance(code, int) else 500, {})
                usage = read_usage(document.get("usage")) or usage
                version = str(document.get("model", ""))[:200]
                choices = document.get("choices")
                choice = choices[0] if isinstance(choices, list) and choices else {}
                delta = choice.get("delta") or {}
                fragments.add(delta.get("tool_calls"))
                finish = choice.get("finish_reason") or finish
                if isinstance(delta.get("content"), str) and delta["content"]:
                    yield Chunk(delta["content"], model_version=version)
        finally:
            events.close()
        if finish is None:
            raise e.ProviderGarbage("the provider's stream ended in the middle")
        yield Chunk("", fragments.whole(), usage, _FINISH.get(str(finish), Finish.OTHER), version)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        extra = {} if dimensions is None else {"dimensions": dimensions}
        body = _encode({"model": self._model, "input": inputs, "encoding_format": "float", **extra})
        document = _document(self._post("/embeddings", body, timeout))
        try:
            rows = sorted(document["data"], key=lambda row: row["index"])
            vectors = msgspec.convert([row["embedding"] for row in rows], tuple[tuple[float, ...], ...])
        except (msgspec.ValidationError, KeyError, TypeError) as error:
            raise e.ProviderGarbage("the provider's embeddings are not vectors") from error
        return Embeddings(vectors, read_usage(document.get("usage")))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:  # noqa: ARG002 - the port's
        """This dialect has no such call: the offline estimate."""
        return ceil(sum(map(weigh, prompt.texts())) + 4 * len(prompt.messages))

    def ping(self, timeout: float) -> None:
        reply = self._http.get("/models", self._headers, timeout)
        if reply.status != 200:
            raise_error(reply.status, reply.headers)

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: bytes, timeout: float) -> bytes:
        reply = self._http.post(path, body, self._headers, timeout)
        if reply.status != 200:
            raise_error(reply.status, reply.headers)
        return reply.body
