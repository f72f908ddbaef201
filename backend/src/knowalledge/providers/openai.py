"""OpenAI's chat dialect, towards any server that speaks it: OpenAI, vLLM, Ollama, llama.cpp.

Source: platform.openai.com/docs/api-reference/chat. Fields that only newer servers know are not sent unless asked for.
Answers are read into typed values: what has the wrong type is refused, and what is not named here is skipped unread.
"""

from base64 import b64encode
from collections.abc import Generator
from math import ceil
from typing import Any, NoReturn

import msgspec
from msgspec import Raw, Struct

from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings, Finish, Usage
from knowalledge.gateway.domain.estimate import weigh
from knowalledge.gateway.domain.prompt import Blob, FileRef, Message, Prompt, Text, ToolCall, ToolResult
from knowalledge.gateway.ports import Provider
from knowalledge.net.http.client import Http, Reply
from knowalledge.net.http.connection import header_lines
from knowalledge.providers.descriptor import ProviderDescriptor, ProviderSpec, http_client

URL = "https://api.openai.com/v1"
_encode = msgspec.json.Encoder().encode
_FINISH = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.SAFETY,
}
ABSURD_TOKENS = 100_000_000
# How servers name, in the body, what the status of an error inside a stream cannot say.
_NAMED = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "authentication_error": 401,
    "invalid_api_key": 401,
}
_BLOCKED = {"content_filter", "content_policy_violation", "moderation_blocked"}
# An account without money says 429 like any other limit; no short wait helps it.
_NO_CREDIT_S = 60.0


# -- asking ----------------------------------------------------------------------------------------------------------


def request_body(model: str, prompt: Prompt, stream: bool, limit_name: str = "max_tokens") -> bytes:
    """A Prompt as the body of chat/completions. ``limit_name``: what this server calls ``max_output_tokens``."""
    messages = [{"role": "system", "content": prompt.system}] if prompt.system else []
    for message in prompt.messages:
        messages.extend(_messages(message))
    body: dict[str, Any] = {"model": model, "messages": messages}
    for name, value in (
        (limit_name, prompt.max_output_tokens),
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
        schema = {"name": "answer", "strict": True, "schema": _raw(prompt.json_schema)}
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
    return _encode(body)


def _raw(text: str) -> Raw:
    """JSON text as it is, once it is known to be JSON: it goes into the middle of our own."""
    try:
        return msgspec.json.decode(text, type=Raw)
    except msgspec.DecodeError as error:
        raise e.ProviderRejected("a schema in the request is not JSON") from error


def _messages(message: Message) -> list[dict[str, Any]]:
    """Tool results are messages of their own in this dialect, and come before what else the message says."""
    found: list[dict[str, Any]] = [
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
    content = [_piece(part) for part in message.parts if isinstance(part, Text | Blob | FileRef)]
    if not content and not calls and found:
        return found
    plain: Any = content
    if all(piece["type"] == "text" for piece in content):
        plain = "".join(piece["text"] for piece in content)
    role = "user" if message.role == "tool" else message.role
    said: dict[str, Any] = {"role": role, "content": plain or (None if calls else "")}
    if calls:
        said["tool_calls"] = calls
    return [*found, said]


def _piece(part: Text | Blob | FileRef) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"type": "text", "text": text}
        case Blob(mime, data):
            url = f"data:{mime};base64,{b64encode(data).decode()}"
            return {"type": "image_url", "image_url": {"url": url}}
        case FileRef(uri):
            return {"type": "image_url", "image_url": {"url": uri}}


# -- being answered --------------------------------------------------------------------------------------------------


_NULL = Raw(b"null")


class _Function(Struct):
    name: str | None = None
    arguments: str | None = None


class _Call(Struct):
    index: int | None = None
    id: str | None = None
    function: _Function | None = None


class _Said(Struct):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Call] | None = None


class _Choice(Struct):
    message: _Said | None = None
    delta: _Said | None = None
    finish_reason: str | None = None


class _Document(Struct):
    choices: list[_Choice] | None = None
    usage: Any = None
    model: str | None = None
    error: Raw = _NULL  # msgspec has no optional Raw


class _Row(Struct):
    embedding: tuple[float, ...]
    index: int = 0


class _Rows(Struct):
    data: list[_Row]
    usage: Any = None


_read_document = msgspec.json.Decoder(_Document).decode
_read_rows = msgspec.json.Decoder(_Rows).decode
_read_object = msgspec.json.Decoder(dict[str, Any]).decode


def _document(body: bytes) -> _Document:
    try:
        return _read_document(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.ProviderGarbage("the provider's answer is not of the form agreed on") from error


def read_completion(body: bytes) -> Completion:
    """The answer of chat/completions. Raises ``ProviderGarbage`` if there is no answer in it."""
    document = _document(body)
    choice = document.choices[0] if document.choices else None
    if choice is None or choice.message is None:
        raise e.ProviderGarbage("the provider answered without a choice")
    gathered = _Gathered()
    text = gathered.add(choice)
    return Completion(
        ((Text(text),) if text else ()) + gathered.calls(),
        gathered.end(),
        read_usage(document.usage),
        (document.model or "")[:200],
    )


class _Assembly(Struct):
    """A tool call while its pieces arrive."""

    index: int | None
    id: str = ""
    names: list[str] = []
    arguments: list[str] = []


class _Gathered:
    """What the deltas of one choice come to. Tool calls arrive in pieces and are given on when they are whole."""

    def __init__(self) -> None:
        self._calls: list[_Assembly] = []
        self._said = self._refused = False
        self._finish: str | None = None

    def add(self, choice: _Choice) -> str:
        """Returns the text that this piece adds."""
        said = choice.delta or choice.message or _Said()
        self._finish = choice.finish_reason or self._finish
        for piece in said.tool_calls or ():
            call = self._assembly(piece)
            call.id = call.id or piece.id or ""
            if piece.function is not None:
                call.names.append(piece.function.name or "")
                call.arguments.append(piece.function.arguments or "")
        self._refused = self._refused or bool(said.refusal)
        text = (said.content or "") + (said.refusal or "")
        self._said = self._said or bool(text)
        return text

    def _assembly(self, piece: _Call) -> _Assembly:
        """The call that a piece belongs to. Some servers give all the same index; then a new id begins a new one."""
        for call in reversed(self._calls):
            if call.index == piece.index and (not piece.id or piece.id == call.id):
                return call
        self._calls.append(_Assembly(piece.index))
        return self._calls[-1]

    def calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall("".join(it.names), "".join(it.arguments) or "{}", it.id) for it in self._calls)

    def end(self) -> Finish:
        """Why the model stopped. Raises ``ProviderGarbage`` if it did not, or stopped having said nothing."""
        if self._finish is None:
            raise e.ProviderGarbage("the provider's answer ended in the middle")
        finish = _FINISH.get(self._finish, Finish.OTHER)
        if self._refused:
            return Finish.SAFETY
        if self._calls:
            return Finish.TOOL_CALLS if finish is Finish.STOP else finish
        if finish is Finish.STOP and not self._said:
            raise e.ProviderGarbage("the provider answered with an empty choice")
        return finish


def read_usage(found: object) -> Usage | None:
    """usage, or None where it is missing or absurd. Reasoning tokens are part of completion_tokens here."""
    if not isinstance(found, dict):
        return None
    completion = found.get("completion_tokens_details")
    prompt = found.get("prompt_tokens_details")
    counts = (
        found.get("prompt_tokens") or 0,
        found.get("completion_tokens") or 0,
        (completion.get("reasoning_tokens") or 0) if isinstance(completion, dict) else 0,
        (prompt.get("cached_tokens") or 0) if isinstance(prompt, dict) else 0,
    )
    for count in counts:
        if type(count) is not int or not 0 <= count <= ABSURD_TOKENS:
            return None
    given, output, thinking, cached = counts
    if not given:
        return None
    return Usage(given, max(0, output - thinking), min(thinking, output), min(cached, given))


# -- being refused ---------------------------------------------------------------------------------------------------


def raise_error(reply: Reply) -> NoReturn:
    """An error answer as its typed error. Status 0: the error came inside a stream and names its own kind."""
    error = _error_of(reply.body)
    names = {error.get("code"), error.get("type")} if _plain(error) else set()
    status = reply.status or _status_of(error, names)
    hint = reply.retry_after()
    if status == 429:
        if "insufficient_quota" in names:
            hint = max(hint or 0.0, _NO_CREDIT_S)
        raise e.ProviderRateLimited("the provider's quota is spent", retry_after=hint)
    if status in (401, 403):
        raise e.ProviderAuth("the provider does not accept our credentials")
    if status in (408, 504):
        raise e.ProviderTimeout("the provider gave up: its own deadline passed")
    if status == 400 and names & _BLOCKED:
        raise e.ContentBlocked("the provider blocked the prompt")
    if 400 <= status < 499:
        raise e.ProviderRejected(f"the provider does not take this request ({status})")
    raise e.ProviderUnavailable(f"the provider failed ({status})", retry_after=hint)


def _error_of(body: bytes) -> dict[str, Any]:
    try:
        found = _read_object(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    inner = found.get("error")
    return inner if isinstance(inner, dict) else found


def _plain(error: dict[str, Any]) -> bool:
    return all(isinstance(error.get(name), str | int | None) for name in ("code", "type"))


def _status_of(error: dict[str, Any], names: set[Any]) -> int:
    code = error.get("code")
    if isinstance(code, int):
        return code
    return next((_NAMED[name] for name in names if name in _NAMED), 500)


class OpenAi:
    """Implements ``Provider``. The base URL ends before ``/chat/completions``."""

    def __init__(self, http: Http, model: str, api_key: str, limit_name: str = "max_tokens") -> None:
        self._http = http
        self._model = model
        self._limit_name = limit_name
        headers = {"content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._headers = header_lines(headers)

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        body = request_body(self._model, prompt, False, self._limit_name)
        return read_completion(self._post("/chat/completions", body, timeout))

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        body = request_body(self._model, prompt, True, self._limit_name)
        events = self._http.events("/chat/completions", body, self._headers, timeout, last=b"[DONE]")
        gathered, usage, version = _Gathered(), None, ""
        try:
            while True:
                try:
                    came = next(events)
                except StopIteration as end:
                    reply: Reply | None = end.value
                    break
                chunks = []
                try:
                    for data in came:
                        document = _document(data)
                        if document.error != _NULL:
                            raise_error(Reply(0, {}, data))
                        usage = read_usage(document.usage) or usage
                        version = (document.model or version)[:200]
                        text = gathered.add(document.choices[0]) if document.choices else ""
                        if text:
                            chunks.append(Chunk(text, model_version=version))
                except e.KnowalledgeError:
                    if chunks:  # what came before it is an answer all the same
                        yield chunks
                    raise
                if chunks:
                    yield chunks
        finally:
            events.close()
        if reply is not None:
            raise_error(reply)
        finish = gathered.end()
        yield [Chunk("", gathered.calls(), usage, finish, version)]

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        extra = {} if dimensions is None else {"dimensions": dimensions}
        body = _encode({"model": self._model, "input": inputs, "encoding_format": "float", **extra})
        try:
            found = _read_rows(self._post("/embeddings", body, timeout))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise e.ProviderGarbage("the provider's embeddings are not vectors") from error
        rows = sorted(found.data, key=lambda row: row.index)
        if len(rows) != len(inputs):
            raise e.ProviderGarbage("the provider answered with another number of embeddings")
        return Embeddings(tuple(row.embedding for row in rows), read_usage(found.usage))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:  # noqa: ARG002 - the port's
        """This dialect has no such call: the offline estimate."""
        return ceil(sum(map(weigh, prompt.texts())) + 4 * len(prompt.messages))

    def ping(self, timeout: float) -> None:
        """The list of models: authenticated, and charged to no quota of tokens."""
        reply = self._http.get("/models", self._headers, timeout)
        if reply.status != 200:
            raise_error(reply)

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: bytes, timeout: float) -> bytes:
        reply = self._http.post(path, body, self._headers, timeout)
        if reply.status != 200:
            raise_error(reply)
        return reply.body


def _create(spec: ProviderSpec, url: str, clock: Clock) -> Provider:
    # OpenAI's newer models refuse the old name, and servers of other makers know no other.
    limit_name = "max_completion_tokens" if url == URL else "max_tokens"
    return OpenAi(http_client(spec, url, clock), spec.model, spec.api_key, limit_name)


OPENAI = ProviderDescriptor(name="openai", create=_create, default_url=lambda _: URL)
