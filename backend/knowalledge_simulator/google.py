"""The formats of the Gemini API and Vertex AI: they share messages and differ in paths and in the names of quotas.

Sources: ai.google.dev/api/generate-content, cloud.google.com/vertex-ai/docs/reference/rest, and 429 responses that
users have posted (github.com/google-gemini/gemini-cli/issues/8437,
github.com/langchain-ai/langchain-google/issues/1445).
"""

import re
from typing import Any

from knowalledge_simulator import schema
from knowalledge_simulator import text as words
from knowalledge_simulator.call import Call, ErrorResponse, Usage
from knowalledge_simulator.window import Rejection

_STATUS = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    429: "RESOURCE_EXHAUSTED",
    500: "INTERNAL",
    503: "UNAVAILABLE",
}
_FINISH = {"stop": "STOP", "length": "MAX_TOKENS", "safety": "SAFETY"}
_IMAGE_TOKENS = 258
_PATH = re.compile(
    r"/v1(?:alpha|beta1?)?/(?:projects/(?P<project>[^/:]+)/locations/(?P<location>[^/:]+)/)?"
    r"(?P<publisher>publishers/google/)?(?:models|tunedModels)(?:/(?P<model>[^/:]+))?(?::(?P<method>\w+))?"
)
_METHODS = {
    "generateContent": "generate",
    "streamGenerateContent": "generate",
    "countTokens": "count",
    "embedContent": "embed",
    "batchEmbedContents": "embed",
    "predict": "embed",
}
_GEMINI_QUOTA = {
    "rpm": ("generate_requests_per_model", "GenerateRequestsPerMinutePerProjectPerModel"),
    "rpd": ("generate_requests_per_model_per_day", "GenerateRequestsPerDayPerProjectPerModel"),
    "tpm": (
        "generate_content_paid_tier_input_token_count",
        "GenerateContentPaidTierInputTokensPerModelPerMinute",
    ),
    "tpd": (
        "generate_content_paid_tier_input_token_count",
        "GenerateContentPaidTierInputTokensPerModelPerDay",
    ),
}
_VERTEX_QUOTA = {
    "rpm": "GenerateContentRequestsPerMinutePerProjectPerRegionPerBaseModel",
    "rpd": "GenerateContentRequestsPerDayPerProjectPerRegionPerBaseModel",
    "tpm": "GenerateContentTokensPerMinutePerProjectPerRegionPerBaseModel",
    "tpd": "GenerateContentTokensPerDayPerProjectPerRegionPerBaseModel",
}


class Google:
    """Implements ``Dialect`` for both Google APIs."""

    terminator = b""

    def __init__(self, vertex: bool) -> None:
        self.vertex = vertex

    def completion(self, call: Call, text: str, finish: str, usage: Usage | None) -> dict[str, Any]:
        body: dict[str, Any] = {}
        if finish == "safety" and not text:
            body["promptFeedback"] = {"blockReason": "SAFETY"}
        elif finish:
            body["candidates"] = [
                self._candidate(text, finish, index) for index in range(max(1, call.candidates))
            ]
        return body | self._metadata(call, usage)

    def chunk(self, call: Call, text: str, first: bool) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        return {"candidates": [self._candidate(text, "", 0)], "modelVersion": call.model}

    def final_chunks(self, call: Call, text: str, finish: str, usage: Usage | None) -> list[dict[str, Any]]:
        return [{"candidates": [self._candidate(text, finish, 0)]} | self._metadata(call, usage)]

    def embeddings(self, call: Call, vectors: list[tuple[float, ...]]) -> dict[str, Any]:
        if call.predict:
            return {
                "predictions": [
                    {
                        "embeddings": {
                            "values": values,
                            "statistics": {"token_count": words.count_tokens(text), "truncated": False},
                        }
                    }
                    for text, values in zip(call.inputs, vectors, strict=True)
                ]
            }
        embeddings = [{"values": values} for values in vectors]
        return {"embedding": embeddings[0]} if call.single else {"embeddings": embeddings}

    def models(self, names: list[str], single: bool) -> dict[str, Any]:
        prefix = "publishers/google/models/" if self.vertex else "models/"
        models = [
            {
                "name": prefix + name,
                "version": "001",
                "displayName": name,
                "inputTokenLimit": 1_048_576,
                "outputTokenLimit": 65_536,
                "supportedGenerationMethods": ["generateContent", "countTokens", "embedContent"],
            }
            for name in names
        ]
        return models[0] if single else {("publisherModels" if self.vertex else "models"): models}

    def quota_error(self, call: Call, rejection: Rejection | None) -> ErrorResponse:
        if rejection is None:
            return self._error(
                429,
                "Resource exhausted. Please try again later. Please refer to "
                "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.",
                [],
            )
        if self.vertex:
            quota_id = _VERTEX_QUOTA[rejection.window]
            metric = "aiplatform.googleapis.com/" + re.sub(r"(?<!^)(?=[A-Z])", "_", quota_id).lower()
            location = call.key.rpartition("/")[0] or "global"
            dimensions = {"base_model": call.model, "region": location}
        else:
            name, quota_id = _GEMINI_QUOTA[rejection.window]
            metric = f"generativelanguage.googleapis.com/{name}"
            dimensions = {"location": "global", "model": call.model}
        message = (
            "You exceeded your current quota, please check your plan and billing details.\n"
            f"* Quota exceeded for metric: {metric}, limit: {rejection.limit}, model: {call.model}\n"
            f"Please retry in {rejection.wait_s:.9f}s."
        )
        details: list[dict[str, Any]] = [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": metric,
                        "quotaId": quota_id,
                        "quotaDimensions": dimensions,
                        "quotaValue": str(rejection.limit),
                    }
                ],
            },
            {
                "@type": "type.googleapis.com/google.rpc.Help",
                "links": [
                    {
                        "description": "Learn more about Gemini API quotas",
                        "url": "https://ai.google.dev/gemini-api/docs/rate-limits",
                    }
                ],
            },
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{rejection.wait_s:.3f}s"},
        ]
        return self._error(429, message, details)

    def error(self, status: int, message: str) -> ErrorResponse:
        return self._error(status, message, [])

    def _error(self, status: int, message: str, details: list[dict[str, Any]]) -> ErrorResponse:
        error: dict[str, Any] = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
        if details:
            error["details"] = details
        return ErrorResponse(status, {"error": error})

    def _candidate(self, text: str, finish: str, index: int) -> dict[str, Any]:
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": index}
        if finish:
            candidate["finishReason"] = _FINISH[finish]
        return candidate

    def _metadata(self, call: Call, usage: Usage | None) -> dict[str, Any]:
        body: dict[str, Any] = {"modelVersion": call.model, "responseId": "simulated"}
        if usage is not None:
            counts: dict[str, Any] = {
                "promptTokenCount": usage.input,
                "candidatesTokenCount": usage.output,
                "totalTokenCount": usage.input + usage.output + usage.thinking,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": usage.input}],
            }
            if usage.thinking:
                counts["thoughtsTokenCount"] = usage.thinking
            if self.vertex:
                counts["trafficType"] = "ON_DEMAND"
            body["usageMetadata"] = counts
        return body


GEMINI, VERTEX = Google(vertex=False), Google(vertex=True)


def match(path: str) -> "re.Match[str] | None":
    """The parts of a path of these APIs, or None for another path."""
    return _PATH.fullmatch(path)


def dialect_of(path: "re.Match[str]") -> Google:
    return VERTEX if path["publisher"] else GEMINI


def parse(path: "re.Match[str]", query: str, document: dict[str, Any]) -> Call:
    """A matched path and its body as a Call. Raises ``ValueError`` with the message for the caller."""
    dialect = dialect_of(path)
    model, method = path["model"] or "", path["method"]
    if method is None:
        return Call("model" if model else "models", dialect, model)
    kind = _METHODS.get(method)
    if kind is None or not model:
        raise ValueError(f"Method {method} is not known for this resource.")
    key = f"{path['location'] or 'global'}/{model}" if dialect.vertex else model
    if kind == "embed":
        return _parse_embed(dialect, model, key, method, document)
    if kind == "count" and isinstance(document.get("generateContentRequest"), dict):
        document = document["generateContentRequest"]
    contents = document.get("contents")
    if isinstance(contents, dict):
        contents = [contents]
    if not isinstance(contents, list) or not contents:
        raise ValueError("* GenerateContentRequest.contents: contents is not specified")
    texts, images = _texts([*contents, document.get("systemInstruction") or {}])
    tools = document.get("tools")
    config = document.get("generationConfig") or {}
    max_tokens = config.get("maxOutputTokens")
    if max_tokens is not None and (type(max_tokens) is not int or not 0 < max_tokens <= 65_536):
        raise ValueError("Unable to submit request because maxOutputTokens is out of range.")
    return Call(
        "count" if kind == "count" else "generate",
        dialect,
        model,
        key,
        tokens=sum(map(words.count_tokens, texts))
        + images * _IMAGE_TOKENS
        + (words.count_tokens(str(tools)) if tools else 0),
        marked_tokens=next((it for it in map(words.marked_length, reversed(texts)) if it is not None), None),
        max_tokens=max_tokens,
        stream=method == "streamGenerateContent",
        sse="alt=sse" in query,
        candidates=config.get("candidateCount") or 1,
        schema_text=schema.sample(config.get("responseJsonSchema") or config.get("responseSchema")),
    )


def token_count(call: Call) -> dict[str, Any]:
    """The response to ``:countTokens``; OpenAI's API has no such call."""
    details = [{"modality": "TEXT", "tokenCount": call.tokens}]
    return {"totalTokens": call.tokens, "promptTokensDetails": details}


def _texts(contents: list[Any]) -> tuple[list[str], int]:
    """The texts of contents, and the number of their images and files."""
    texts, images = [], 0
    for content in contents:
        parts = content.get("parts", []) if isinstance(content, dict) else None
        if isinstance(parts, dict):  # both APIs accept a single part instead of a list
            parts = [parts]
        if not isinstance(parts, list):
            raise ValueError("Invalid value at 'contents': parts is not a list")
        for part in parts:
            if not isinstance(part, dict):
                raise ValueError("Invalid value at 'contents.parts': not an object")
            if isinstance(part.get("text"), str):
                texts.append(part["text"])
            elif "inlineData" in part or "fileData" in part or "inline_data" in part:
                images += 1
            else:
                texts.append(str(part))
    return texts, images


def _parse_embed(dialect: Google, model: str, key: str, method: str, document: dict[str, Any]) -> Call:
    if method == "predict":
        instances = document.get("instances")
        inputs = [str(it.get("content", "")) for it in instances or () if isinstance(it, dict)]
        dimensions = (document.get("parameters") or {}).get("outputDimensionality")
    else:
        requests = document.get("requests") if method == "batchEmbedContents" else [document]
        inputs, dimensions = [], None
        for request in requests or ():
            inputs.append(" ".join(_texts([request.get("content") or {}])[0]))
            dimensions = request.get("outputDimensionality", dimensions)
    if not inputs:
        raise ValueError("* BatchEmbedContentsRequest.requests: at least one request is required")
    return Call(
        "embed",
        dialect,
        model,
        key,
        tokens=sum(map(words.count_tokens, inputs)),
        inputs=tuple(inputs),
        dimensions=min(3072, max(1, dimensions or 768)),
        single=method == "embedContent",
        predict=method == "predict",
    )
