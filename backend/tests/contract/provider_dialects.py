"""The responses of each provider's API, so that one suite tests every adapter."""

import json
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from knowalledge.core.clock import Clock, SystemClock
from knowalledge.gateway.domain.answer import Usage
from knowalledge.gateway.ports import Provider
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.registry import build

CLOCK = SystemClock()
# The usage that every response reports by default.
USAGE = Usage(input=10, output=4, thinking=3, cached=2)
NO_USAGE: dict[str, Any] = {}


def dump(document: object) -> bytes:
    return json.dumps(document).encode()


class Dialect(ABC):
    """Responses in one provider's format."""

    name: str
    usage = USAGE
    counts_tokens = True
    ping_answer = b"{}"
    vectors: bytes
    vectors_usage: Usage | None
    key_cached: str
    terminator: tuple[bytes, ...] = ()  # data after the last event of a stream

    @abstractmethod
    def provider(self, url: str, clock: Clock = CLOCK) -> Provider: ...

    @abstractmethod
    def usage_document(self, **changes: object) -> Any:
        """The usage document, with some of its fields replaced."""

    @abstractmethod
    def answer(self, text: str = "hello", finish: str = "", usage: Any = None, calls: Any = ()) -> bytes: ...

    @abstractmethod
    def event(self, text: str = "", finish: str = "none", usage: Any = None, calls: Any = ()) -> bytes:
        """One event of a stream, as its data."""

    @abstractmethod
    def error(self, status: int) -> bytes: ...

    def stream(self, *texts: str) -> tuple[bytes, ...]:
        """A whole stream of framed events."""
        *first, last = texts
        datas = [self.event(text) for text in first] + self.final_events(last)
        return tuple(b"data: " + data + b"\r\n\r\n" for data in (*datas, *self.terminator))

    @abstractmethod
    def final_events(self, text: str) -> list[bytes]: ...


class _Google(Dialect):
    usage = Usage(input=10, output=4, thinking=3, cached=2, tool=1)  # input: prompt 9 + tool use 1
    finish_names: ClassVar = {"": "STOP", "length": "MAX_TOKENS", "safety": "SAFETY", "odd": "LANGUAGE"}
    key_prompt, key_output, key_cached = "promptTokenCount", "candidatesTokenCount", "cachedContentTokenCount"

    def usage_document(self, **changes: object) -> Any:
        usage = {
            "promptTokenCount": 9,
            "candidatesTokenCount": 4,
            "thoughtsTokenCount": 3,
            "cachedContentTokenCount": 2,
            "toolUsePromptTokenCount": 1,
            "totalTokenCount": 17,
        }
        return {**usage, **changes}

    def _document(self, text: str, finish: str | None, usage: Any, calls: Any) -> dict[str, Any]:
        parts: list[Any] = [{"text": "I think", "thought": True}, {"text": text}] if text else []
        parts += [{"functionCall": {"name": name, "args": args, "id": key}} for key, name, args in calls]
        candidate: dict[str, Any] = {"content": {"role": "model", "parts": parts}, "index": 0}
        if finish is not None:
            candidate["finishReason"] = self.finish_names[finish]
        document: dict[str, Any] = {"candidates": [candidate], "modelVersion": "m-001"}
        if usage is not NO_USAGE:
            document["usageMetadata"] = self.usage_document() if usage is None else usage
        return document

    def answer(self, text: str = "hello", finish: str = "", usage: Any = None, calls: Any = ()) -> bytes:
        return dump(self._document(text, finish, usage, calls))

    def event(self, text: str = "", finish: str = "none", usage: Any = None, calls: Any = ()) -> bytes:
        reported = NO_USAGE if usage is None and finish == "none" else usage
        return dump(self._document(text, None if finish == "none" else finish, reported, calls))

    def final_events(self, text: str) -> list[bytes]:
        return [self.event(text, "")]

    def error(self, status: int) -> bytes:
        return dump({"error": {"code": status, "message": "the secret prompt", "status": "SOMETHING"}})


class GeminiDialect(_Google):
    name = "gemini"
    ping_answer = dump({"name": "models/m"})
    vectors = dump({"embeddings": [{"values": [0.5, 1.0]}, {"values": [2, 3]}]})
    vectors_usage = None

    def provider(self, url: str, clock: Clock = CLOCK) -> Provider:
        return build(ProviderSpec("gemini", "m", base_url=url, api_key="k-1"), clock)


class VertexDialect(_Google):
    name = "vertex"
    ping_answer = dump({"totalTokens": 1})
    vectors = dump(
        {
            "predictions": [
                {"embeddings": {"values": [0.5, 1.0], "statistics": {"token_count": 3}}},
                {"embeddings": {"values": [2, 3], "statistics": {"token_count": 4.0}}},
            ]
        }
    )
    vectors_usage = Usage(7)

    def provider(self, url: str, clock: Clock = CLOCK) -> Provider:
        spec = ProviderSpec("vertex", "m", url, "demo", "us-central1", api_key="k-1")
        return build(spec, clock)


class OpenAiDialect(Dialect):
    name = "openai"
    counts_tokens = False  # the dialect has no such call
    ping_answer = dump({"object": "list", "data": []})
    terminator = (b"[DONE]",)
    vectors = dump(
        {
            "data": [{"index": 1, "embedding": [2, 3]}, {"index": 0, "embedding": [0.5, 1.0]}],
            "usage": {"prompt_tokens": 7, "total_tokens": 7},
        }
    )
    vectors_usage = Usage(7)
    finish_names: ClassVar = {"": "stop", "length": "length", "safety": "content_filter", "odd": "sunshine"}
    key_prompt, key_output, key_cached = "prompt_tokens", "completion_tokens", "prompt_tokens_details"

    def provider(self, url: str, clock: Clock = CLOCK) -> Provider:
        return build(ProviderSpec("openai", "m", base_url=url + "/v1", api_key="k-1"), clock)

    def usage_document(self, **changes: object) -> Any:
        usage = {
            "prompt_tokens": 10,
            "completion_tokens": 7,
            "total_tokens": 17,
            "completion_tokens_details": {"reasoning_tokens": 3},
            "prompt_tokens_details": {"cached_tokens": 2},
        }
        return {**usage, **changes}

    def _document(self, message: dict[str, Any], key: str, finish: str | None, usage: Any) -> dict[str, Any]:
        choice = {
            "index": 0,
            key: message,
            "finish_reason": self.finish_names.get(finish or "none" * (finish is None)),
        }
        document: dict[str, Any] = {"model": "m-001", "choices": [choice]}
        if usage is not NO_USAGE:
            document["usage"] = self.usage_document() if usage is None else usage
        return document

    def _message(self, text: str, calls: Any) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": text or None}
        if calls:
            message["tool_calls"] = [
                {
                    "index": index,
                    "id": key,
                    "type": "function",
                    "function": {"name": name, "arguments": json.dumps(args, separators=(",", ":"))},
                }
                for index, (key, name, args) in enumerate(calls)
            ]
        return message

    def answer(self, text: str = "hello", finish: str = "", usage: Any = None, calls: Any = ()) -> bytes:
        return dump(self._document(self._message(text, calls), "message", finish, usage))

    def event(self, text: str = "", finish: str = "none", usage: Any = None, calls: Any = ()) -> bytes:
        reported = NO_USAGE if usage is None and finish == "none" else usage
        return dump(
            self._document(
                self._message(text, calls), "delta", None if finish == "none" else finish, reported
            )
        )

    def final_events(self, text: str) -> list[bytes]:
        usage = dump({"model": "m-001", "choices": [], "usage": self.usage_document()})
        return [self.event(text, "", NO_USAGE), usage]

    def error(self, status: int) -> bytes:
        kind = {429: "rate_limit_exceeded"}.get(status, "server_error")
        return dump({"error": {"message": "the secret prompt", "type": kind, "param": None, "code": None}})


DIALECTS = (GeminiDialect(), VertexDialect(), OpenAiDialect())
