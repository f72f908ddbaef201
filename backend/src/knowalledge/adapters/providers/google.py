"""Google's GenerateContent dialect, both ways, as pure functions.

Source: ai.google.dev/api/generate-content and the REST reference of Vertex AI, which share these messages.
"""

import re
from base64 import b64encode
from collections.abc import Mapping
from typing import Any, NoReturn

import msgspec

from knowalledge.domain import errors as e
from knowalledge.domain.model import (
    Blob,
    Chunk,
    Completion,
    Embeddings,
    FileRef,
    Finish,
    Message,
    Part,
    Prompt,
    Text,
    Tool,
    ToolCall,
    ToolResult,
    Usage,
)

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode

_FINISH = {
    "STOP": Finish.STOP,
    "MAX_TOKENS": Finish.LENGTH,
    "SAFETY": Finish.SAFETY,
    "RECITATION": Finish.SAFETY,
    "BLOCKLIST": Finish.SAFETY,
    "PROHIBITED_CONTENT": Finish.SAFETY,
    "SPII": Finish.SAFETY,
    "IMAGE_SAFETY": Finish.SAFETY,
}
# More tokens than any context window has: such a count is a fault of the provider, not a fact.
ABSURD_TOKENS = 100_000_000
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,9})?)s")


# -- asking ----------------------------------------------------------------------------------------------------------


def request_body(prompt: Prompt) -> bytes:
    """A Prompt as the body of generateContent."""
    body: dict[str, Any] = {"contents": [_content(message) for message in prompt.messages]}
    if prompt.system:
        body["systemInstruction"] = {"parts": [{"text": prompt.system}]}
    config: dict[str, Any] = {
        name: value
        for name, value in (
            ("maxOutputTokens", prompt.max_output_tokens),
            ("temperature", prompt.temperature),
            ("topP", prompt.top_p),
            ("topK", prompt.top_k),
            ("seed", prompt.seed),
            ("stopSequences", prompt.stop or None),
            ("presencePenalty", prompt.presence_penalty),
            ("frequencyPenalty", prompt.frequency_penalty),
        )
        if value is not None
    }
    if prompt.json or prompt.json_schema:
        config["responseMimeType"] = "application/json"
    if prompt.json_schema:
        config["responseJsonSchema"] = msgspec.Raw(prompt.json_schema.encode())
    if prompt.thinking_budget is not None:
        config["thinkingConfig"] = {"thinkingBudget": prompt.thinking_budget}
    if config:
        body["generationConfig"] = config
    if prompt.tools:
        body["tools"] = [{"functionDeclarations": [_declaration(tool) for tool in prompt.tools]}]
        if prompt.tool_choice:
            body["toolConfig"] = {"functionCallingConfig": _choice(prompt.tool_choice)}
    if prompt.safety:
        body["safetySettings"] = msgspec.Raw(prompt.safety.encode())
    return _encode(body)


def count_body(prompt: Prompt) -> bytes:
    """A Prompt as the body of countTokens, which takes no generationConfig."""
    whole = _decode(request_body(prompt))
    return _encode({key: whole[key] for key in ("contents", "systemInstruction", "tools") if key in whole})


def embed_body(model: str, inputs: tuple[str, ...], dimensions: int | None) -> bytes:
    extra = {} if dimensions is None else {"outputDimensionality": dimensions}
    requests = [
        {"model": f"models/{model}", "content": {"parts": [{"text": text}]}, **extra} for text in inputs
    ]
    return _encode({"requests": requests})


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
        case ToolCall(name, arguments):
            return {"functionCall": {"name": name, "args": msgspec.Raw(arguments.encode() or b"{}")}}
        case ToolResult(name, content):
            return {"functionResponse": {"name": name, "response": _as_object(content)}}


def _as_object(content: str) -> Any:
    try:
        found = msgspec.json.decode(content)
    except msgspec.DecodeError:
        return {"result": content}
    return found if isinstance(found, dict) else {"result": found}


def _declaration(tool: Tool) -> dict[str, Any]:
    found: dict[str, Any] = {"name": tool.name}
    if tool.description:
        found["description"] = tool.description
    if tool.parameters:
        found["parametersJsonSchema"] = msgspec.Raw(tool.parameters.encode())
    return found


def _choice(choice: str) -> dict[str, Any]:
    modes = {"auto": "AUTO", "none": "NONE", "required": "ANY"}
    if choice in modes:
        return {"mode": modes[choice]}
    return {"mode": "ANY", "allowedFunctionNames": [choice]}


# -- being answered --------------------------------------------------------------------------------------------------


def read_completion(body: bytes) -> Completion:
    """The answer of generateContent. Raises ``ContentBlocked``, or ``ProviderGarbage`` if it holds no candidate."""
    document = _document(body)
    parts, finish = _candidate(document)
    if finish is None:
        raise e.ProviderGarbage("the provider answered without a candidate")
    calls = any(isinstance(part, ToolCall) for part in parts)
    return Completion(
        _joined(parts),
        Finish.TOOL_CALLS if calls and finish is Finish.STOP else finish,
        read_usage(document.get("usageMetadata")),
        str(document.get("modelVersion", ""))[:200],
    )


def read_chunk(data: bytes) -> Chunk:
    """One event of streamGenerateContent. Raises the error that it carries, if it carries one."""
    document = _document(data)
    if "error" in document:
        raise_error(0, {}, data)
    parts, finish = _candidate(document)
    return Chunk(
        "".join(part.text for part in parts if isinstance(part, Text)),
        tuple(part for part in parts if isinstance(part, ToolCall)),
        read_usage(document.get("usageMetadata")),
        finish,
        str(document.get("modelVersion", ""))[:200],
    )


def _document(body: bytes) -> dict[str, Any]:
    try:
        return _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.ProviderGarbage("the provider's answer is not a JSON object") from error


def _candidate(document: dict[str, Any]) -> tuple[list[Text | ToolCall], Finish | None]:
    feedback = document.get("promptFeedback")
    if isinstance(feedback, dict) and feedback.get("blockReason"):
        raise e.ContentBlocked(f"the provider blocked the prompt: {str(feedback['blockReason'])[:60]}")
    candidates = document.get("candidates")
    if not isinstance(candidates, list) or not candidates:
        return [], None
    first = candidates[0]
    if not isinstance(first, dict):
        raise e.ProviderGarbage("the provider's candidate is not an object")
    reason = first.get("finishReason")
    finish = _FINISH.get(str(reason), Finish.OTHER) if reason else None
    content = first.get("content")
    parts = content.get("parts", []) if isinstance(content, dict) else []
    found: list[Text | ToolCall] = []
    for part in parts if isinstance(parts, list) else []:
        if not isinstance(part, dict):
            raise e.ProviderGarbage("the provider's part is not an object")
        if isinstance(part.get("text"), str) and not part.get("thought"):
            found.append(Text(part["text"]))
        elif isinstance(part.get("functionCall"), dict):
            call = part["functionCall"]
            arguments = _encode(call.get("args") or {}).decode()
            found.append(ToolCall(str(call.get("name", "")), arguments, str(call.get("id", ""))))
    if finish is None and not found and "usageMetadata" not in document:
        raise e.ProviderGarbage("the provider answered with an empty candidate")
    return found, finish


def _joined(parts: list[Text | ToolCall]) -> tuple[Text | ToolCall, ...]:
    text = "".join(part.text for part in parts if isinstance(part, Text))
    calls = tuple(part for part in parts if isinstance(part, ToolCall))
    return ((Text(text),) if text else ()) + calls


def read_usage(found: object) -> Usage | None:
    """usageMetadata, or None where it is missing or absurd: then our own estimate stands.

    ``promptTokenCount`` includes cached tokens; tool-use prompt tokens come on top of it.
    """
    if not isinstance(found, dict):
        return None
    names = (
        "promptTokenCount",
        "candidatesTokenCount",
        "thoughtsTokenCount",
        "cachedContentTokenCount",
        "toolUsePromptTokenCount",
    )
    counts = [found.get(name) or 0 for name in names]
    if not all(type(count) is int and 0 <= count <= ABSURD_TOKENS for count in counts):
        return None
    prompt, output, thinking, cached, tool = counts
    return Usage(prompt + tool, output, thinking, cached, tool) if prompt else None


def read_count(body: bytes) -> int:
    found = _document(body).get("totalTokens")
    if type(found) is not int or not 0 <= found <= ABSURD_TOKENS:
        raise e.ProviderGarbage("the provider's token count is not a count")
    return found


def read_embeddings(body: bytes) -> Embeddings:
    found = _document(body).get("embeddings")
    try:
        vectors = msgspec.convert([item["values"] for item in found or ()], tuple[tuple[float, ...], ...])
    except (msgspec.ValidationError, KeyError, TypeError) as error:
        raise e.ProviderGarbage("the provider's embeddings are not vectors") from error
    if not vectors:
        raise e.ProviderGarbage("the provider answered without embeddings")
    return Embeddings(vectors)


def raise_error(status: int, headers: Mapping[str, Any], body: bytes) -> NoReturn:
    """An error answer as its typed error. Status 0: the error came inside a stream and names its own code."""
    try:
        document = _decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        document = {}
    found = document.get("error")
    error: dict[str, Any] = found if isinstance(found, dict) else {}
    code = error.get("code")
    status = status or (code if isinstance(code, int) else 500)
    if status == 429:
        raise e.ProviderRateLimited(
            "the provider's quota is spent",
            retry_after=_hint(error, headers),
            quota_id=_quota_id(error),
        )
    if status in (401, 403):
        raise e.ProviderAuth("the provider does not accept our credentials")
    if status in (408, 504):
        raise e.ProviderTimeout("the provider gave up: its own deadline passed")
    if 400 <= status < 500:
        name = str(error.get("status", ""))[:60]
        raise e.ProviderRejected(
            f"the provider does not take this request ({status} {name})".replace(" )", ")")
        )
    raise e.ProviderUnavailable(f"the provider failed ({status})")


def _details(error: dict[str, Any], kind: str) -> list[dict[str, Any]]:
    details = error.get("details")
    if not isinstance(details, list):
        return []
    return [it for it in details if isinstance(it, dict) and str(it.get("@type", "")).endswith(kind)]


def _hint(error: dict[str, Any], headers: Mapping[str, Any]) -> float | None:
    """Seconds to wait: RetryInfo, else the Retry-After header, else nothing is known."""
    for info in _details(error, "google.rpc.RetryInfo"):
        match = _DURATION.fullmatch(str(info.get("retryDelay", "")))
        if match:
            return float(match[1])
    after = headers.get("retry-after")
    return float(after) if isinstance(after, str) and after.isdecimal() and len(after) < 7 else None


def _quota_id(error: dict[str, Any]) -> str:
    for failure in _details(error, "google.rpc.QuotaFailure"):
        violations = failure.get("violations")
        for violation in violations if isinstance(violations, list) else []:
            if isinstance(violation, dict) and violation.get("quotaId"):
                return str(violation["quotaId"])[:120]
    return ""
