"""The format of OpenAI's API: chat completions, embeddings, models.

Source: platform.openai.com/docs/api-reference, and its guide to rate limits for headers and messages.
"""

import re
from typing import Any

from knowalledge_simulator import schema
from knowalledge_simulator import text as words
from knowalledge_simulator.call import Call, ErrorResponse, Usage
from knowalledge_simulator.window import Rejection

_FINISH = {"stop": "stop", "length": "length", "safety": "content_filter"}
_ERROR_TYPES = {401: "invalid_request_error", 429: "requests", 500: "server_error", 503: "server_error"}
_IMAGE_TOKENS = 85
_PATH = re.compile(r"(?:/v1)?/(?P<route>chat/completions|embeddings|models)(?:/(?P<model>[^:]+))?")
_NAMES = {
    "rpm": "requests per min (RPM)",
    "tpm": "tokens per min (TPM)",
    "rpd": "requests per day (RPD)",
    "tpd": "tokens per day (TPD)",
}


class OpenAi:
    """Implements ``Dialect``."""

    terminator = b"data: [DONE]\n\n"

    def completion(self, call: Call, text: str, finish: str, usage: Usage | None) -> dict[str, Any]:
        message = {"role": "assistant", "content": text, "refusal": None}
        choices = [
            {"index": index, "message": message, "logprobs": None, "finish_reason": _FINISH[finish]}
            for index in range(call.candidates if finish else 0)
        ]
        body: dict[str, Any] = self._head(call, "chat.completion") | {"choices": choices}
        if usage is not None:
            body["usage"] = _usage(usage)
        return body

    def chunk(self, call: Call, text: str, first: bool) -> dict[str, Any]:
        delta = {"role": "assistant", "content": text} if first else {"content": text}
        choice = {"index": 0, "delta": delta, "finish_reason": None}
        return self._head(call, "chat.completion.chunk") | {"choices": [choice]}

    def final_chunks(self, call: Call, text: str, finish: str, usage: Usage | None) -> list[dict[str, Any]]:
        head = self._head(call, "chat.completion.chunk")
        chunks = [self.chunk(call, text, False)] if text else []
        chunks.append(head | {"choices": [{"index": 0, "delta": {}, "finish_reason": _FINISH[finish]}]})
        if call.usage and usage is not None:
            chunks.append(head | {"choices": [], "usage": _usage(usage)})
        return chunks

    def embeddings(self, call: Call, vectors: list[tuple[float, ...]]) -> dict[str, Any]:
        return {
            "object": "list",
            "model": call.model,
            "data": [
                {"object": "embedding", "index": index, "embedding": values}
                for index, values in enumerate(vectors)
            ],
            "usage": {"prompt_tokens": call.tokens, "total_tokens": call.tokens},
        }

    def models(self, names: list[str], single: bool) -> dict[str, Any]:
        models = [
            {"id": name, "object": "model", "created": 1_750_000_000, "owned_by": "simulator"}
            for name in names
        ]
        return models[0] if single else {"object": "list", "data": models}

    def quota_error(self, call: Call, rejection: Rejection | None) -> ErrorResponse:
        if rejection is None:
            return ErrorResponse(429, _error("Rate limit reached.", "requests", "rate_limit_exceeded"))
        kind = "requests" if rejection.window[0] == "r" else "tokens"
        amount = 1 if kind == "requests" else call.tokens
        message = (
            f"Rate limit reached for {call.model} in organization org-simulated on {_NAMES[rejection.window]}: "
            f"Limit {rejection.limit}, Used {rejection.used}, Requested {amount}. "
            f"Please try again in {rejection.wait_s:.3f}s."
        )
        headers = {
            "retry-after": str(int(rejection.wait_s) + 1),
            "retry-after-ms": str(int(rejection.wait_s * 1000) + 1),
            f"x-ratelimit-limit-{kind}": str(rejection.limit),
            f"x-ratelimit-remaining-{kind}": str(max(0, rejection.limit - rejection.used)),
            f"x-ratelimit-reset-{kind}": f"{rejection.wait_s:.3f}s",
        }
        return ErrorResponse(429, _error(message, kind, "rate_limit_exceeded"), headers)

    def error(self, status: int, message: str) -> ErrorResponse:
        return ErrorResponse(status, _error(message, _ERROR_TYPES.get(status, "invalid_request_error"), None))

    def _head(self, call: Call, kind: str) -> dict[str, Any]:
        return {"id": "chatcmpl-simulated", "object": kind, "created": 1_750_000_000, "model": call.model}


OPENAI = OpenAi()


def _error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output + usage.thinking,
        "total_tokens": usage.input + usage.output + usage.thinking,
        "prompt_tokens_details": {"cached_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": usage.thinking},
    }


def match(path: str) -> "re.Match[str] | None":
    """The parts of a path of this API, or None for another path."""
    return _PATH.fullmatch(path)


def parse(path: "re.Match[str]", document: dict[str, Any]) -> Call:
    """A matched path and its body as a Call. Raises ``ValueError`` with the message for the caller."""
    route, model = path["route"], path["model"] or str(document.get("model") or "")
    if route == "models":
        return Call("model" if model else "models", OPENAI, model)
    if not model:
        raise ValueError("you must provide a model parameter")
    if route == "embeddings":
        inputs = document.get("input")
        if isinstance(inputs, str):
            inputs = [inputs]
        if not isinstance(inputs, list) or not inputs or not all(isinstance(it, str) for it in inputs):
            raise ValueError("'input' must be a string or a list of strings")
        return Call(
            "embed",
            OPENAI,
            model,
            model,
            tokens=sum(map(words.count_tokens, inputs)),
            inputs=tuple(inputs),
            dimensions=min(3072, max(1, document.get("dimensions") or 768)),
        )
    messages = document.get("messages")
    if not isinstance(messages, list) or not messages:
        raise ValueError("Missing required parameter: 'messages'.")
    texts, images = _texts(messages)
    stream = bool(document.get("stream"))
    max_tokens = document.get("max_completion_tokens") or document.get("max_tokens")
    return Call(
        "generate",
        OPENAI,
        model,
        model,
        tokens=sum(map(words.count_tokens, texts)) + images * _IMAGE_TOKENS,
        marked_tokens=next((it for it in map(words.marked_length, reversed(texts)) if it is not None), None),
        max_tokens=max_tokens if isinstance(max_tokens, int) else None,
        stream=stream,
        usage=not stream or bool((document.get("stream_options") or {}).get("include_usage")),
        candidates=document.get("n") or 1,
        schema_text=schema.sample(
            ((document.get("response_format") or {}).get("json_schema") or {}).get("schema")
        ),
    )


def _texts(messages: list[Any]) -> tuple[list[str], int]:
    """The texts of messages, and the number of their images."""
    texts, images = [], 0
    for message in messages:
        if not isinstance(message, dict):
            raise ValueError("'messages' must hold objects")
        content = message.get("content")
        for part in content if isinstance(content, list) else [{"text": content}]:
            text = part.get("text") if isinstance(part, dict) else None
            if isinstance(text, str):
                texts.append(text)
            elif isinstance(part, dict) and "image_url" in part:
                images += 1
    return texts, images
