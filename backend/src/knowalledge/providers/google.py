"""The messages of Google's APIs as pure functions: requests from a Prompt, responses and errors to typed values.

Source: ai.google.dev/api/generate-content and the REST reference of Vertex AI, which share these messages.
Responses are decoded strictly: a field of the wrong type is ``ProviderGarbage``, an unknown field is skipped.
"""

import re
from base64 import b64encode
from typing import Any, NoReturn

import msgspec
from msgspec import Raw, Struct

from knowalledge.core import errors as e
from knowalledge.gateway.domain.answer import Chunk, Completion, Embeddings, Finish, Usage
from knowalledge.gateway.domain.passthrough import Verbatim
from knowalledge.gateway.domain.prompt import (
    Blob,
    FileRef,
    Message,
    Part,
    Prompt,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)
from knowalledge.net.http.client import Response
from knowalledge.providers.rejections import is_request_fault, rejection

_encode = msgspec.json.Encoder().encode

_FINISH = {
    "STOP": Finish.STOP,
    "MAX_TOKENS": Finish.LENGTH,
    "SAFETY": Finish.SAFETY,
    "RECITATION": Finish.SAFETY,
    "BLOCKLIST": Finish.SAFETY,
    "PROHIBITED_CONTENT": Finish.SAFETY,
    "SPII": Finish.SAFETY,
    "IMAGE_SAFETY": Finish.SAFETY,
    "MODEL_ARMOR": Finish.SAFETY,
}
NO_SIGNATURE = "skip_thought_signature_validator"
# No context window is larger, so a larger count is a fault of the provider and is not used.
MAX_PLAUSIBLE_TOKENS = 100_000_000
# The prompt of a ping: its tokens are counted.
PING = Prompt((Message("user", (Text("ping"),)),))
# A 403 about a file that the request names, not about our credentials.
_FOREIGN_FILE = re.compile(
    r"\baccess the (?:File|CachedContent)\b|\bfile\b.{0,80}\bmay not exist\b", re.IGNORECASE
)
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


# -- requests ----------------------------------------------------------------------------------------------------------


def request_body(prompt: Prompt, wants_signatures: bool = False) -> bytes:
    """A Prompt as the body of generateContent.

    ``wants_signatures``: the model refuses a turn whose first call has no thought signature. Clients of another dialect
    may have lost it; then Google's documented value takes its place (ai.google.dev/gemini-api/docs/thought-signatures).
    """
    body = input_fields(prompt)
    if wants_signatures:
        for content in body["contents"]:
            call = next((part for part in content["parts"] if "functionCall" in part), None)
            if call is not None:
                call.setdefault("thoughtSignature", NO_SIGNATURE)
    config: dict[str, Any] = {
        name: value
        for name, value in (
            ("maxOutputTokens", prompt.max_output_tokens),
            ("temperature", prompt.temperature),
            ("topP", prompt.top_p),
            ("topK", prompt.top_k),
            ("seed", None if prompt.seed is None else int32(prompt.seed)),
            ("stopSequences", prompt.stop or None),
            ("presencePenalty", prompt.presence_penalty),
            ("frequencyPenalty", prompt.frequency_penalty),
        )
        if value is not None
    }
    if prompt.json or prompt.json_schema:
        config["responseMimeType"] = "application/json"
    if prompt.json_schema:
        config["responseJsonSchema"] = _raw(prompt.json_schema)
    if prompt.thinking_level:
        config["thinkingConfig"] = {"thinkingLevel": prompt.thinking_level.upper()}
    elif prompt.thinking_budget is not None:
        config["thinkingConfig"] = {"thinkingBudget": prompt.thinking_budget}
    if prompt.media_resolution:
        config["mediaResolution"] = f"MEDIA_RESOLUTION_{prompt.media_resolution.upper()}"
    if config:
        body["generationConfig"] = config
    if prompt.tools and prompt.tool_choice:
        body["toolConfig"] = {"functionCallingConfig": _calling_config(prompt.tool_choice)}
    if prompt.safety:
        body["safetySettings"] = _raw(prompt.safety)
    return _encode(body)


def int32(seed: int) -> int:
    """A seed in Google's range: one within it unchanged, a larger one folded into it, so equal ones stay equal."""
    return (seed + 2**31) % 2**32 - 2**31


def input_fields(prompt: Prompt) -> dict[str, Any]:
    """The fields of a request whose tokens count as input: contents, system instruction and tools."""
    body: dict[str, Any] = {"contents": [_content(message) for message in prompt.messages]}
    if prompt.system:
        body["systemInstruction"] = {"parts": [{"text": prompt.system}]}
    if prompt.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in prompt.tools]}]
    return body


def _raw(text: str) -> Raw:
    """JSON text, validated, to be embedded unchanged in a request. Raises ``ProviderRejected``."""
    try:
        return msgspec.json.decode(text, type=Raw)
    except msgspec.DecodeError as error:
        raise e.ProviderRejected("a schema or setting in the request is not JSON") from error


def _content(message: Message) -> dict[str, Any]:
    role = "model" if message.role == "assistant" else "user"
    return {"role": role, "parts": [_part(part) for part in message.parts]}


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text):
            return {"text": text}
        case Blob(mime, data):
            return {"inlineData": {"mimeType": mime, "data": b64encode(data).decode()}}
        case FileRef(uri, mime):
            return {"fileData": {"fileUri": uri, **({"mimeType": mime} if mime else {})}}
        case ToolCall(name, arguments, _, signature):
            call = {"functionCall": {"name": name, "args": _as_object(arguments or "{}", "arguments")}}
            return {**call, "thoughtSignature": signature} if signature else call
        case ToolResult(name, content):
            return {"functionResponse": {"name": name, "response": _as_object(content, "result")}}


def _as_object(text: str, key: str) -> Any:
    """JSON text as the object that Google requires; any other value or plain text is wrapped as ``{key: text}``."""
    try:
        raw = msgspec.json.decode(text, type=Raw)
    except msgspec.DecodeError:
        return {key: text}
    return raw if bytes(raw).lstrip()[:1] == b"{" else {key: raw}


def _declaration(tool: Tool) -> dict[str, Any]:
    declaration: dict[str, Any] = {"name": tool.name}
    if tool.description:
        declaration["description"] = tool.description
    if tool.parameters:
        declaration["parametersJsonSchema"] = _raw(tool.parameters)
    return declaration


def _calling_config(choice: str) -> dict[str, Any]:
    modes = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
    if choice in modes:
        return {"mode": modes[choice]}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


# -- responses ---------------------------------------------------------------------------------------------------------


_NULL = Raw(b"null")


class _FunctionCall(Struct):
    name: str = ""
    args: Raw = Raw(b"{}")
    id: str = ""


class _Part(Struct, rename="camel"):
    text: str | None = None
    thought: bool = False
    function_call: _FunctionCall | None = None
    thought_signature: str = ""


class _Content(Struct):
    parts: list[_Part] = []


class _Candidate(Struct, rename="camel"):
    content: _Content | None = None
    finish_reason: str | None = None


class _PromptFeedback(Struct, rename="camel"):
    block_reason: str | None = None


class _GenerateContentResponse(Struct, rename="camel"):
    candidates: list[_Candidate] = []
    prompt_feedback: _PromptFeedback | None = None
    usage_metadata: Any = None
    model_version: str | None = None
    error: Raw = _NULL  # msgspec has no optional Raw


class _CountTokensResponse(Struct, rename="camel"):
    total_tokens: int = -1


_decode_response = msgspec.json.Decoder(_GenerateContentResponse).decode
_decode_count = msgspec.json.Decoder(_CountTokensResponse).decode
# Some front ends wrap the error of a stream in a list.
_decode_error = msgspec.json.Decoder(dict[str, Any] | list[Any]).decode


def read_completion(body: bytes, passes: bool = False) -> Completion:
    """The response of generateContent. Raises ``ContentBlocked``, or ``ProviderGarbage`` if it has no answer.

    ``passes``: the client speaks this dialect, so the answer keeps the provider's words.
    """
    chunk = read_chunk(body, passes)
    if chunk.finish is None:
        raise e.ProviderGarbage("the provider answered without a candidate")
    parts = ((Text(chunk.text),) if chunk.text else ()) + chunk.tool_calls
    finish = Finish.TOOL_CALLS if chunk.tool_calls and chunk.finish is Finish.STOP else chunk.finish
    verbatim = chunk.verbatim and Verbatim("gemini", chunk.verbatim.data, whole=True)
    return Completion(parts, finish, chunk.usage, chunk.model_version, verbatim, chunk.reason)


def read_chunk(data: bytes, passes: bool = False) -> Chunk:
    """One event of streamGenerateContent. Raises the event's error, if it has one."""
    try:
        document = _decode_response(data)
        data.decode()  # fields that are kept as they are have not been read
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.ProviderGarbage("the provider's response does not match its API") from error
    if document.error != _NULL:
        raise_error(Response(0, {}, data))
    feedback = document.prompt_feedback
    if feedback is not None and feedback.block_reason:
        reason = _sanitize(feedback.block_reason)
        raise e.ContentBlocked(f"the provider blocked the prompt: {reason}", reason=reason)
    text, calls, finish, reason, has_content = "", [], None, "", False
    if document.candidates:
        candidate = document.candidates[0]
        if candidate.finish_reason and candidate.finish_reason != "FINISH_REASON_UNSPECIFIED":
            finish = _FINISH.get(candidate.finish_reason, Finish.OTHER)
            if finish is Finish.OTHER:
                reason = _sanitize(candidate.finish_reason)
        for part in candidate.content.parts if candidate.content else ():
            has_content = True
            if part.text and not part.thought:
                text += part.text
            elif part.function_call is not None:
                calls.append(_tool_call(part.function_call, part.thought_signature))
    usage = read_usage(document.usage_metadata)
    verbatim = Verbatim("gemini", (data,)) if passes else None
    version = (document.model_version or "")[:200]
    return Chunk(text, tuple(calls), usage, finish, version, verbatim, passes and has_content, reason)


def _tool_call(call: _FunctionCall, signature: str) -> ToolCall:
    return ToolCall(call.name, "{}" if call.args == _NULL else bytes(call.args).decode(), call.id, signature)


def _sanitize(text: object) -> str:
    """One of Google's constants, safe to quote in an error message: other characters are removed."""
    return re.sub(r"[^A-Za-z0-9_ -]", "", str(text))[:120]


def read_usage(usage: object) -> Usage | None:
    """The counts of ``usageMetadata``; None if missing or implausible, then the estimate is charged.

    ``promptTokenCount`` includes cached tokens; tool-use prompt tokens come on top of it.
    """
    if not isinstance(usage, dict):
        return None
    get = usage.get
    counts = (
        get("promptTokenCount") or 0,
        get("candidatesTokenCount") or 0,
        get("thoughtsTokenCount") or 0,
        get("cachedContentTokenCount") or 0,
        get("toolUsePromptTokenCount") or 0,
    )
    for count in counts:
        if type(count) is not int or not 0 <= count <= MAX_PLAUSIBLE_TOKENS:
            return None
    prompt, output, thinking, cached, tool = counts
    return Usage(prompt + tool, output, thinking, min(cached, prompt), tool) if prompt else None


def read_count(body: bytes) -> int:
    """The response of countTokens, in tokens. Raises ``ProviderGarbage``."""
    try:
        tokens = _decode_count(body).total_tokens
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.ProviderGarbage("the provider's token count is not valid") from error
    if not 0 <= tokens <= MAX_PLAUSIBLE_TOKENS:
        raise e.ProviderGarbage("the provider's token count is not valid")
    return tokens


# -- embeddings of Vertex AI -------------------------------------------------------------------------------------------


class _PredictStatistics(Struct, frozen=True):
    token_count: Any = 0


class _PredictEmbedding(Struct):
    values: tuple[float, ...]
    statistics: _PredictStatistics = _PredictStatistics()


class _Prediction(Struct):
    embeddings: _PredictEmbedding


class _PredictResponse(Struct):
    predictions: tuple[_Prediction, ...]


_decode_predict = msgspec.json.Decoder(_PredictResponse).decode


def predict_body(inputs: tuple[str, ...], dimensions: int | None) -> dict[str, Any]:
    """The body of Vertex AI's predict for embeddings, one instance per text."""
    body: dict[str, Any] = {"instances": [{"content": text} for text in inputs]}
    if dimensions is not None:
        body["parameters"] = {"outputDimensionality": dimensions}
    return body


def read_embeddings(body: bytes, count: int) -> Embeddings:
    """The response of predict to ``count`` texts. Raises ``ProviderGarbage``."""
    try:
        predictions = _decode_predict(body).predictions
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.ProviderGarbage("the provider's embeddings are not vectors") from error
    if len(predictions) != count:
        raise e.ProviderGarbage("the provider answered with another number of embeddings")
    counts = [it.embeddings.statistics.token_count for it in predictions]
    # Some API versions write the count as a float, 7.0.
    usable = all(isinstance(it, int | float) and 0 <= it <= MAX_PLAUSIBLE_TOKENS for it in counts)
    usage = Usage(int(sum(counts))) if usable and sum(counts) else None
    return Embeddings(tuple(it.embeddings.values for it in predictions), usage)


# -- errors ------------------------------------------------------------------------------------------------------------


def raise_error(response: Response) -> NoReturn:
    """Raise the typed error of an error response. Status 0: the error arrived inside a stream and has its own code."""
    error = _error_object(response.body)
    code = error.get("code")
    status = response.status or (code if type(code) is int else 500)
    retry_after = _retry_delay(error)
    if retry_after is None:
        retry_after = response.retry_after()
    if status == 429:
        raise e.ProviderRateLimited(
            "the provider's quota is exhausted", retry_after=retry_after, quota_id=_quota_id(error)
        )
    message = error.get("message")
    if status == 403 and isinstance(message, str) and _FOREIGN_FILE.search(message):
        raise rejection(status, message)
    if status in (401, 403) or any(
        info.get("reason") == "API_KEY_INVALID" for info in _details(error, "google.rpc.ErrorInfo")
    ):
        raise e.ProviderAuth("the provider rejected our credentials", status=403 if status == 403 else 401)
    if status in (408, 504):
        raise e.ProviderTimeout("the provider timed out")
    if is_request_fault(status):
        raise rejection(status, message)
    raise e.ProviderUnavailable(f"the provider failed ({status})", retry_after=retry_after, status=status)


def _error_object(body: bytes) -> dict[str, Any]:
    try:
        document = _decode_error(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return {}
    if isinstance(document, list):
        document = document[0] if document and isinstance(document[0], dict) else {}
    error = document.get("error")
    return error if isinstance(error, dict) else {}


def _details(error: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    details = error.get("details")
    if not isinstance(details, list):
        return []
    return [it for it in details if isinstance(it, dict) and str(it.get("@type", "")).endswith(kind)]


def _retry_delay(error: dict[str, Any]) -> float | None:
    for info in _details(error, "google.rpc.RetryInfo"):
        match = _DURATION.fullmatch(str(info.get("retryDelay", "")))
        if match:
            return float(match[1])
    return None


def _quota_id(error: dict[str, Any]) -> str:
    for failure in _details(error, "google.rpc.QuotaFailure"):
        violations = failure.get("violations")
        for violation in violations if isinstance(violations, list) else []:
            if isinstance(violation, dict) and violation.get("quotaId"):
                return _sanitize(violation["quotaId"])
    return ""
