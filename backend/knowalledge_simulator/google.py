"""Google's dialects: the Gemini API and Vertex AI share messages and differ in paths and in how they name a quota.

Sources: ai.google.dev/api/generate-content, cloud.google.com/vertex-ai/docs/reference/rest, and 429 answers as
users have posted them (github.com/google-gemini/gemini-cli/issues/8437,
github.com/langchain-ai/langchain-google/issues/1445).
"""

import re
from typing import Any

from knowalledge_simulator import schema
from knowalledge_simulator import text as words
from knowalledge_simulator.call import Call, Count, Failure
from knowalledge_simulator.window import Refusal

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

    end = b""

    def __init__(self, vertex: bool) -> None:
        self.vertex = vertex

    def whole(self, call: Call, text: str, finish: str, count: Count | None) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if finish == "safety" and not text:
            found["promptFeedback"] = {"blockReason": "SAFETY"}
        elif finish:
            found["candidates"] = [
                self._candidate(text, finish, index) for index in range(max(1, call.candidates))
            ]
        return found | self._tail(call, count)

    def piece(self, call: Call, text: str, first: bool) -> dict[str, Any]:  # noqa: ARG002 - the protocol's
        return {"candidates": [self._candidate(text, "", 0)], "modelVersion": call.model}

    def last(self, call: Call, text: str, finish: str, count: Count | None) -> list[dict[str, Any]]:
        return [{"candidates": [self._candidate(text, finish, 0)]} | self._tail(call, count)]

    def vectors(self, call: Call, vectors: list[tuple[float, ...]]) -> dict[str, Any]:
        if call.predict:
            return {
                "predictions": [
                    {
                        "embeddings": {
                            "values": values,
                            "statistics": {"token_count": words.count(text), "truncated": False},
                        }
                    }
                    for text, values in zip(call.inputs, vectors, strict=True)
                ]
            }
        found = [{"values": values} for values in vectors]
        return {"embedding": found[0]} if call.single else {"embeddings": found}

    def described(self, names: list[str], single: bool) -> dict[str, Any]:
        prefix = "publishers/google/models/" if self.vertex else "models/"
        found = [
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
        return found[0] if single else {("publisherModels" if self.vertex else "models"): found}

    def refusal(self, call: Call, refusal: Refusal | None) -> Failure:
        if refusal is None:
            return self._failure(
                429,
                "Resource exhausted. Please try again later. Please refer to "
                "https://cloud.google.com/vertex-ai/generative-ai/docs/error-code-429 for more details.",
                [],
            )
        if self.vertex:
            quota_id = _VERTEX_QUOTA[refusal.window]
            metric = "aiplatform.googleapis.com/" + re.sub(r"(?<!^)(?=[A-Z])", "_", quota_id).lower()
            location = call.key.rpartition("/")[0] or "global"
            dimensions = {"base_model": call.model, "region": location}
        else:
            name, quota_id = _GEMINI_QUOTA[refusal.window]
            metric = f"generativelanguage.googleapis.com/{name}"
            dimensions = {"location": "global", "model": call.model}
        message = (
            "You exceeded your current quota, please check your plan and billing details.\n"
            f"* Quota exceeded for metric: {metric}, limit: {refusal.limit}, model: {call.model}\n"
            f"Please retry in {refusal.wait_s:.9f}s."
        )
        details: list[dict[str, Any]] = [
            {
                "@type": "type.googleapis.com/google.rpc.QuotaFailure",
                "violations": [
                    {
                        "quotaMetric": metric,
                        "quotaId": quota_id,
                        "quotaDimensions": dimensions,
                        "quotaValue": str(refusal.limit),
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
            {"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": f"{refusal.wait_s:.3f}s"},
        ]
        return self._failure(429, message, details)

    def failure(self, status: int, message: str) -> Failure:
        return self._failure(status, message, [])

    def _failure(self, status: int, message: str, details: list[dict[str, Any]]) -> Failure:
        error: dict[str, Any] = {"code": status, "message": message, "status": _STATUS.get(status, "UNKNOWN")}
        if details:
            error["details"] = details
        return Failure(status, {"error": error})

    def _candidate(self, text: str, finish: str, index: int) -> dict[str, Any]:
        found: dict[str, Any] = {"content": {"role": "model", "parts": [{"text": text}]}, "index": index}
        if finish:
            found["finishReason"] = _FINISH[finish]
        return found

    def _tail(self, call: Call, count: Count | None) -> dict[str, Any]:
        found: dict[str, Any] = {"modelVersion": call.model, "responseId": "simulated"}
        if count is not None:
            usage: dict[str, Any] = {
                "promptTokenCount": count.input,
                "candidatesTokenCount": count.output,
                "totalTokenCount": count.input + count.output + count.thinking,
                "promptTokensDetails": [{"modality": "TEXT", "tokenCount": count.input}],
            }
            if count.thinking:
                usage["thoughtsTokenCount"] = count.thinking
            if self.vertex:
                usage["trafficType"] = "ON_DEMAND"
            found["usageMetadata"] = usage
        return found


GEMINI, VERTEX = Google(vertex=False), Google(vertex=True)


def match(path: str) -> "re.Match[str] | None":
    """Whether a path belongs to this dialect."""
    return _PATH.fullmatch(path)


def dialect(found: "re.Match[str]") -> Google:
    return VERTEX if found["publisher"] else GEMINI


def read(found: "re.Match[str]", query: str, document: dict[str, Any]) -> Call:
    """A matched path and its body as a Call. Raises ``ValueError`` saying what is wrong, in Google's words."""
    side = dialect(found)
    model, method = found["model"] or "", found["method"]
    if method is None:
        return Call("model" if model else "models", side, model)
    kind = _METHODS.get(method)
    if kind is None or not model:
        raise ValueError(f"Method {method} is not known for this resource.")
    key = f"{found['location'] or 'global'}/{model}" if side.vertex else model
    if kind == "embed":
        return _embed(side, model, key, method, document)
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
    most = config.get("maxOutputTokens")
    if most is not None and (type(most) is not int or not 0 < most <= 65_536):
        raise ValueError("Unable to submit request because maxOutputTokens is out of range.")
    return Call(
        "count" if kind == "count" else "generate",
        side,
        model,
        key,
        tokens=sum(map(words.count, texts))
        + images * _IMAGE_TOKENS
        + (words.count(str(tools)) if tools else 0),
        wanted=next((it for it in map(words.wanted, reversed(texts)) if it is not None), None),
        most=most,
        stream=method == "streamGenerateContent",
        sse="alt=sse" in query,
        candidates=config.get("candidateCount") or 1,
        said=schema.said(config.get("responseJsonSchema") or config.get("responseSchema")),
    )


def counted(call: Call) -> dict[str, Any]:
    """The answer to ``:countTokens``, which OpenAI's API has no like of."""
    details = [{"modality": "TEXT", "tokenCount": call.tokens}]
    return {"totalTokens": call.tokens, "promptTokensDetails": details}


def _texts(contents: list[Any]) -> tuple[list[str], int]:
    texts, images = [], 0
    for content in contents:
        parts = content.get("parts", []) if isinstance(content, dict) else None
        if isinstance(parts, dict):  # both APIs take a lone part for a list of one
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


def _embed(side: Google, model: str, key: str, method: str, document: dict[str, Any]) -> Call:
    if method == "predict":
        rows = document.get("instances")
        inputs = [str(row.get("content", "")) for row in rows or () if isinstance(row, dict)]
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
        side,
        model,
        key,
        tokens=sum(map(words.count, inputs)),
        inputs=tuple(inputs),
        dimensions=min(3072, max(1, dimensions or 768)),
        single=method == "embedContent",
        predict=method == "predict",
    )
