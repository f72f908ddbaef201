"""Prompts: what a dialect parses a request's body into, and a provider renders its own request from.

JSON documents that the gateway only carries (schemas, arguments of tools) stay JSON text, so they are never re-ordered,
and values stay hashable.
"""

from typing import Literal

from msgspec import Struct

from knowalledge.gateway.domain.passthrough import Source


class Text(Struct, frozen=True, tag="text"):
    text: str


class Blob(Struct, frozen=True, tag="blob"):
    """Inline media, e.g. an image."""

    mime: str
    data: bytes


class FileRef(Struct, frozen=True, tag="file"):
    """Media by address; the provider fetches it, never the gateway."""

    uri: str
    mime: str = ""


class ToolCall(Struct, frozen=True, tag="call"):
    name: str
    arguments: str  # JSON object text
    id: str = ""
    signature: str = ""  # Gemini 3's thought signature; the model refuses the call's return without it


class ToolResult(Struct, frozen=True, tag="result"):
    name: str
    content: str  # JSON or plain text
    id: str = ""


Part = Text | Blob | FileRef | ToolCall | ToolResult


class Message(Struct, frozen=True):
    role: Literal["user", "assistant", "tool"]
    parts: tuple[Part, ...]


class Tool(Struct, frozen=True):
    name: str
    description: str = ""
    parameters: str = ""  # JSON Schema text; empty: takes nothing


class Prompt(Struct, frozen=True, omit_defaults=True):
    """Everything that changes what a model answers, and nothing else: the cache key is made of it."""

    messages: tuple[Message, ...]
    system: str = ""
    max_output_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: tuple[str, ...] = ()
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    json: bool = False  # the answer must be JSON
    json_schema: str = ""  # the JSON Schema of the answer, as text; empty: any JSON
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""  # "", auto, none, required, or a tool's name
    thinking_budget: int | None = None
    thinking_level: str = (
        ""  # minimal, low, medium or high, where the client named a level; empty: it did not
    )
    media_resolution: Literal["", "low", "medium", "high"] = (
        ""  # how finely images are read; empty: as the model does
    )
    safety: str = ""  # Gemini safetySettings, JSON text, passed through
    source: Source | None = None  # the request as its client wrote it, where a target may speak that dialect

    def texts(self) -> tuple[str, ...]:
        """All text that counts as input, in order."""
        texts = [self.system] if self.system else []
        for message in self.messages:
            for part in message.parts:
                if isinstance(part, Text):
                    texts.append(part.text)
                elif isinstance(part, ToolCall):
                    texts.append(part.arguments)
                elif isinstance(part, ToolResult):
                    texts.append(part.content)
        texts.extend(tool.parameters + tool.description for tool in self.tools)
        if self.json_schema:
            texts.append(self.json_schema)
        return tuple(texts)
