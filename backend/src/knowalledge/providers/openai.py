"""OpenAI's API, as a client of any server that implements it: OpenAI, vLLM, Ollama, llama.cpp.

Source: platform.openai.com/docs/api-reference/chat. Fields that only newer servers know are sent only if a prompt sets
them. Responses are decoded strictly: a field of the wrong type is ``ProviderGarbage``, an unknown field is skipped.
"""

from collections.abc import Callable, Generator, Mapping, Sequence
from math import ceil
from typing import Any, NoReturn

import msgspec
from msgspec import Raw, Struct

from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings, Finish, Usage
from knowalledge.gateway.domain.estimate import weigh
from knowalledge.gateway.domain.passthrough import Verbatim
from knowalledge.gateway.domain.prompt import (
    Prompt,
    Text,
    ToolCall,
)
from knowalledge.gateway.ports import Provider
from knowalledge.net.http.client import HttpClient, Response
from knowalledge.net.http.connection import header_lines
from knowalledge.providers.descriptor import ProviderDescriptor, ProviderSpec, http_client
from knowalledge.providers.openai_requests import OPENAI_LIMIT, passed_body, request_body
from knowalledge.providers.rejections import is_request_fault, reason_of, rejection

URL = "https://api.openai.com/v1"
_encode = msgspec.json.Encoder().encode
_FINISH_REASONS = {
    "stop": Finish.STOP,
    "length": Finish.LENGTH,
    "tool_calls": Finish.TOOL_CALLS,
    "function_call": Finish.TOOL_CALLS,
    "content_filter": Finish.SAFETY,
}
# No context window is larger, so a larger count is a fault of the server and is not used.
MAX_PLAUSIBLE_TOKENS = 100_000_000
# The status that an error inside a response of status 200 would have, by its `code`, else its `type`.
_STATUS_BY_NAME = {
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    "invalid_request_error": 400,
    "BadRequestError": 400,  # vLLM's types are names of exceptions
    "invalid_prompt": 400,
    "invalid_image": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "moderation_blocked": 400,
    "model_not_found": 404,
    "not_found_error": 404,
    "NotFoundError": 404,
    "authentication_error": 401,
    "invalid_api_key": 401,
    "permission_error": 403,
    "timeout": 504,
    "overloaded_error": 503,
    "unavailable_error": 503,
}
_BLOCK_CODES = {"content_filter", "content_policy_violation", "moderation_blocked"}
# An account without credit answers 429 like any exceeded limit, but a short wait does not help.
_NO_CREDIT_WAIT_S = 60.0


# -- responses ---------------------------------------------------------------------------------------------------------


_NULL = Raw(b"null")


class _FunctionDelta(Struct):
    name: str | None = None
    arguments: str | dict[str, Any] | None = None  # some servers write the object itself


class _ToolCallDelta(Struct):
    index: int | None = None
    id: str | None = None
    function: _FunctionDelta | None = None


class _ContentPart(Struct):
    """A part of an answer's text, as some servers send it: of type text, thinking or refusal."""

    type: str | None = None
    text: str | None = None
    refusal: str | None = None


class _Message(Struct):
    content: str | list[_ContentPart | str] | None = None
    refusal: str | None = None
    tool_calls: list[_ToolCallDelta] | None = None
    # What has no place in a Completion, and is content all the same.
    reasoning_content: Any = None
    reasoning: Any = None
    function_call: Any = None
    audio: Any = None


class _Choice(Struct):
    message: _Message | None = None
    delta: _Message | None = None
    finish_reason: str | None = None
    error: Raw = _NULL  # a router's way to report that the provider behind it failed


class _ChatResponse(Struct):
    id: str | None = None
    choices: list[_Choice] | None = None
    usage: Any = None
    model: str | None = None
    object: str | None = None
    error: Raw = _NULL  # msgspec has no optional Raw


class _Embedding(Struct):
    embedding: tuple[float, ...]
    index: int = 0


class _EmbeddingsResponse(Struct):
    data: list[_Embedding]
    usage: Any = None


_decode_response = msgspec.json.Decoder(_ChatResponse).decode
_decode_embeddings = msgspec.json.Decoder(_EmbeddingsResponse).decode
_decode_object = msgspec.json.Decoder(dict[str, Any]).decode


def _decode_event(data: bytes) -> _ChatResponse:
    """A whole response, or an event of a stream. Raises ``ProviderGarbage``."""
    try:
        return _decode_response(data)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.ProviderGarbage("the provider's response does not match its API") from error


def _only_text(event: _ChatResponse) -> str:
    """The text of an event that holds nothing else; empty for any other event."""
    choices = event.choices
    if not choices or event.usage is not None or event.error != _NULL:
        return ""
    choice = choices[0]
    delta = choice.delta
    if delta is None or choice.finish_reason is not None or choice.error != _NULL:
        return ""
    text = delta.content
    return text if isinstance(text, str) and not (delta.tool_calls or delta.refusal) else ""


def _lacks_fields(response: _ChatResponse) -> bool:
    """Whether a response does not say what it is: the ``openai`` SDKs skip events of no kind."""
    return not response.object


def _raise_reported(response: _ChatResponse, body: bytes) -> None:
    """Raise the error that a response of status 200 holds."""
    choice = response.choices[0] if response.choices else None
    if response.error != _NULL or response.object == "error":
        raise_error(Response(0, {}, body))
    if choice is not None and choice.error != _NULL:
        raise_error(Response(0, {}, b'{"error":%b}' % bytes(choice.error)))


def read_completion(body: bytes, passes: bool = False) -> Completion:
    """The response of chat/completions. Raises ``ProviderGarbage`` if it has no answer.

    ``passes``: the client speaks this dialect, so the answer keeps the provider's words.
    """
    response = _decode_event(body)
    _raise_reported(response, body)
    choice = response.choices[0] if response.choices else None
    if choice is None or choice.message is None:
        raise e.ProviderGarbage("the provider answered without a choice")
    answer = _AnswerBuilder()
    text = answer.add(choice)
    return Completion(
        ((Text(text),) if text else ()) + answer.tool_calls(),
        answer.finish(),
        read_usage(response.usage),
        (response.model or "")[:200],
        Verbatim("openai", (body,), b"", True, _lacks_fields(response) and not response.id)
        if passes
        else None,
        answer.reason,
    )


def _part_text(part: _ContentPart | str) -> str:
    return part if isinstance(part, str) else part.text or part.refusal or ""


class _PartialCall(Struct):
    """A tool call of which some deltas have arrived."""

    index: int | None
    id: str = ""
    name: str = ""
    arguments: str = ""

    def add(self, function: _FunctionDelta) -> None:
        """Add a delta. A name comes once; some servers repeat it in each delta, or send it in pieces."""
        name, arguments = function.name or "", function.arguments
        if not self.name or name.startswith(self.name):
            self.name = name or self.name
        else:
            self.name += name
        if isinstance(arguments, dict):
            arguments = _encode(arguments).decode()
        self.arguments += arguments or ""

    def is_whole(self) -> bool:
        """Whether the arguments are a complete object, so that more of them start another call."""
        if not self.arguments.rstrip().endswith("}"):
            return False
        try:
            _decode_object(self.arguments)
        except (msgspec.DecodeError, RecursionError):
            return False
        return True


class _AnswerBuilder:
    """Accumulates the deltas of one choice. Tool calls arrive in parts and are complete at the end."""

    def __init__(self) -> None:
        self._calls: list[_PartialCall] = []
        self._has_refusal = False
        self.has_content = False  # text, a refusal, a thought or a part of a call
        self.reason = ""  # the provider's word, if ``finish`` is OTHER
        self._finish_reason: str | None = None

    def add(self, choice: _Choice) -> str:
        """Add one delta, or a whole message. Returns its text."""
        message = choice.delta or choice.message or _Message()
        self._finish_reason = choice.finish_reason or self._finish_reason
        for delta in message.tool_calls or ():
            call = self._call_of(delta)
            call.id = call.id or delta.id or ""
            if delta.function is not None:
                call.add(delta.function)
        self._has_refusal = self._has_refusal or bool(message.refusal)
        content = message.content
        if isinstance(content, list):
            content = "".join(map(_part_text, content))
        text = (content or "") + (message.refusal or "")
        if not self.has_content:
            others = (message.reasoning_content, message.reasoning, message.function_call, message.audio)
            self.has_content = bool(text or self._calls or any(others))
        return text

    def _call_of(self, delta: _ToolCallDelta) -> _PartialCall:
        """The call that a delta belongs to. Some servers use one index for all calls: then a new id starts a call.

        Without ids a name together with arguments does, when those of the call before are complete.
        """
        function = delta.function
        for call in reversed(self._calls):
            if call.index != delta.index or (delta.id and call.id and delta.id != call.id):
                continue
            starts = function is not None and function.name and function.arguments and not delta.id
            if starts and call.is_whole():
                break
            return call
        self._calls.append(_PartialCall(delta.index))
        return self._calls[-1]

    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(ToolCall(it.name, it.arguments or "{}", it.id) for it in self._calls)

    def finish(self) -> Finish:
        """Why the model stopped. Raises ``ProviderGarbage`` for an answer that did not end."""
        if self._finish_reason is None:
            raise e.ProviderGarbage("the provider's answer ended in the middle")
        finish = _FINISH_REASONS.get(self._finish_reason, Finish.OTHER)
        if self._has_refusal:
            return Finish.SAFETY
        if self._calls:
            finish = Finish.TOOL_CALLS if finish is Finish.STOP else finish
        elif finish is Finish.TOOL_CALLS and self._finish_reason == "tool_calls":
            finish = Finish.OTHER  # it announces calls and has none
        if finish is Finish.OTHER:
            self.reason = reason_of(self._finish_reason)[:80]
        return finish


class _StreamReader:
    """Reads the events of one stream. ``passes``: the client speaks this dialect, so chunks keep its words."""

    def __init__(self, passes: bool) -> None:
        self._passes = passes
        self._answer = _AnswerBuilder()
        self._usage: Usage | None = None
        self._version = ""
        self._lacks_fields = False

    def read(self, batch: Sequence[bytes]) -> tuple[list[Chunk], e.KnowalledgeError | None]:
        """The chunks of events that came together, and the failure that one of them reports after those."""
        texts: list[str] = []
        passed: list[bytes] = []
        usage_event, failure = b"", None
        answer, skims = self._answer, self._passes and self._answer.has_content
        try:
            for data in batch:
                if not data:
                    continue
                event = _decode_event(data)
                if skims and (text := _only_text(event)):  # as most are
                    texts.append(text)
                    passed.append(data)
                    continue
                _raise_reported(event, data)
                self._note(event)
                if event.choices:
                    texts.append(answer.add(event.choices[0]))
                    passed.append(data)
                elif event.usage is not None:
                    usage_event = data
                else:
                    passed.append(data)
        except e.KnowalledgeError as error:
            failure = error
        if not self._passes:
            return [Chunk(it, model_version=self._version) for it in texts if it], failure
        if not (passed or usage_event):
            return [], failure
        verbatim = Verbatim("openai", tuple(passed), usage_event, False, self._lacks_fields)
        return [Chunk("".join(texts), (), None, None, self._version, verbatim, answer.has_content)], failure

    def _note(self, event: _ChatResponse) -> None:
        self._lacks_fields = self._lacks_fields or _lacks_fields(event)
        self._usage = read_usage(event.usage) or self._usage
        self._version = (event.model or self._version)[:200]

    def last(self) -> Chunk:
        """The chunk that ends the answer. Raises ``ProviderGarbage`` if it did not end."""
        answer, given = self._answer, Verbatim("openai") if self._passes else None
        finish = answer.finish()
        return Chunk("", answer.tool_calls(), self._usage, finish, self._version, given, reason=answer.reason)


def _whole_chunk(whole: Completion) -> Chunk:
    """A whole answer as the only chunk of a stream."""
    return Chunk(
        whole.text,
        whole.tool_calls,
        whole.usage,
        whole.finish,
        whole.model_version,
        whole.verbatim,
        reason=whole.reason,
    )


def read_usage(usage: object) -> Usage | None:
    """The counts of ``usage``; None if missing or implausible. ``completion_tokens`` includes reasoning tokens."""
    if not isinstance(usage, dict):
        return None
    completion = usage.get("completion_tokens_details")
    prompt = usage.get("prompt_tokens_details")
    counts = (
        usage.get("prompt_tokens") or 0,
        usage.get("completion_tokens") or 0,
        (completion.get("reasoning_tokens") or 0) if isinstance(completion, dict) else 0,
        (prompt.get("cached_tokens") or 0) if isinstance(prompt, dict) else 0,
    )
    for count in counts:
        if type(count) is not int or not 0 <= count <= MAX_PLAUSIBLE_TOKENS:
            return None
    input_, output, thinking, cached = counts
    if not input_:
        return None
    return Usage(input_, max(0, output - thinking), min(thinking, output), min(cached, input_))


# -- errors ------------------------------------------------------------------------------------------------------------


def raise_error(response: Response) -> NoReturn:
    """Raise the typed error of an error response. Status 0: the error arrived inside a response with status 200."""
    error = _error_object(response.body)
    code, kind, message = error.get("code"), error.get("type"), error.get("message")
    names = [it for it in (code, kind) if isinstance(it, str)]
    status = response.status or _status_of(code, names)
    retry_after = response.retry_after()
    if status in (402, 429):  # 402: the account has no credit
        if status == 402 or "insufficient_quota" in names:
            retry_after = max(retry_after or 0.0, _NO_CREDIT_WAIT_S)
        raise e.ProviderRateLimited("the provider's quota is exhausted", retry_after=retry_after)
    if status in (401, 403):
        raise e.ProviderAuth("the provider rejected our credentials", status=status)
    if status in (408, 504):
        raise e.ProviderTimeout("the provider timed out")
    if status == 400 and _BLOCK_CODES.intersection(names):
        raise e.ContentBlocked("the provider blocked the prompt")
    if is_request_fault(status):
        raise rejection(status, message, code if isinstance(code, str) else kind, error.get("param"))
    raise e.ProviderUnavailable(f"the provider failed ({status})", retry_after=retry_after, status=status)


def _error_object(body: bytes) -> dict[str, Any]:
    """The ``error`` of a body, or the body itself, as some servers send it; empty if it is not JSON."""
    try:
        document = _decode_object(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    error = document.get("error", document.get("detail"))  # detail: FastAPI's
    if isinstance(error, str):
        return {"message": error}
    return error if isinstance(error, dict) else document


def _status_of(code: object, names: list[str]) -> int:
    """The status that an error without one would have; 500 if its names say nothing."""
    if isinstance(code, str) and code.isdecimal() and len(code) == 3:
        code = int(code)
    if type(code) is int and 400 <= code < 600:
        return code
    return next((_STATUS_BY_NAME[name] for name in names if name in _STATUS_BY_NAME), 500)


class OpenAi:
    """Implements ``Provider``. The client's base URL ends before ``/chat/completions``."""

    def __init__(
        self,
        http: HttpClient,
        model: str,
        api_key: str,
        limit_name: str = "max_tokens",
        own_fields: Callable[[Prompt], Mapping[str, Any]] = lambda _: {},
    ) -> None:
        """``own_fields``: fields of a body that only this server knows; they replace those of the same name."""
        self._own_fields = own_fields
        self._http = http
        self._model = model
        self._limit_name = limit_name
        headers = {"content-type": "application/json"}
        if api_key:
            headers["authorization"] = f"Bearer {api_key}"
        self._headers = header_lines(headers)

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        body = self._body(prompt, False)
        return read_completion(self._post("/chat/completions", body, timeout), prompt.source is not None)

    def _body(self, prompt: Prompt, stream: bool) -> bytes:
        if prompt.source is not None:
            return passed_body(self._model, prompt.source, stream)
        return request_body(self._model, prompt, stream, self._limit_name, self._own_fields(prompt))

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        passes = prompt.source is not None
        body = self._body(prompt, True)
        events = self._http.events("/chat/completions", body, self._headers, timeout, last=b"[DONE]")
        reader = _StreamReader(passes)
        try:
            while True:
                try:
                    batch = next(events)
                except StopIteration as end:
                    response: Response | None = end.value
                    break
                chunks, failure = reader.read(batch)
                if chunks:
                    yield chunks
                if failure is not None:
                    raise failure
        finally:
            events.close()
        if response is None:
            yield [reader.last()]
        elif response.status != 200:
            raise_error(response)
        else:  # the whole answer at once, or an error
            yield [_whole_chunk(read_completion(response.body, passes))]

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        extra = {} if dimensions is None else {"dimensions": dimensions}
        body = _encode({"model": self._model, "input": inputs, "encoding_format": "float", **extra})
        try:
            response = _decode_embeddings(self._post("/embeddings", body, timeout))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise e.ProviderGarbage("the provider's embeddings are not vectors") from error
        embeddings = sorted(response.data, key=lambda it: it.index)
        if len(embeddings) != len(inputs):
            raise e.ProviderGarbage("the provider answered with another number of embeddings")
        return Embeddings(tuple(it.embedding for it in embeddings), read_usage(response.usage))

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:  # noqa: ARG002 - the port's
        """An estimate made here: this API cannot count tokens."""
        return ceil(sum(map(weigh, prompt.texts())) + 4 * len(prompt.messages))

    def ping(self, timeout: float) -> None:
        """List the models: needs valid credentials and uses no token quota."""
        response = self._http.get("/models", self._headers, timeout)
        if response.status != 200:
            raise_error(response)

    def close(self) -> None:
        self._http.close()

    def _post(self, path: str, body: bytes, timeout: float) -> bytes:
        response = self._http.post(path, body, self._headers, timeout)
        if response.status != 200:
            raise_error(response)
        return response.body


def _create(spec: ProviderSpec, url: str, clock: Clock) -> Provider:
    # Newer models of OpenAI reject max_tokens; other servers know only that.
    limit_name = OPENAI_LIMIT if url == URL else "max_tokens"
    return OpenAi(http_client(spec, url, clock), spec.model, spec.api_key, limit_name)


OPENAI = ProviderDescriptor(name="openai", create=_create, default_url=lambda _: URL, dialect="openai")
