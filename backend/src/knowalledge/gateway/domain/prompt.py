"""The frozen values that flow through the gateway.

Every dialect parses into these and renders from these; nothing downstream knows which dialect asked.
JSON documents that the gateway only carries (schemas, tool arguments) stay JSON text: they are never
re-ordered on the way, and values stay hashable.
"""

from typing import Literal

from msgspec import Struct


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
    signature: str = ""  # Gemini 3's proof of its thoughts; it must come back with the call, else it refuses


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
    """Everything that changes what a model answers, and nothing else: it is the ground of the cache key."""

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
    json_schema: str = ""  # ... of this schema (JSON Schema text)
    tools: tuple[Tool, ...] = ()
    tool_choice: str = ""  # "", auto, none, required, or a tool's name
    thinking_budget: int | None = None
    safety: str = ""  # Gemini safetySettings, JSON text, passed through

    def texts(self) -> tuple[str, ...]:
        """All text that is charged as input, in order."""
        found = [self.system] if self.system else []
        for message in self.messages:
            for part in message.parts:
                if isinstance(part, Text):
                    found.append(part.text)
                elif isinstance(part, ToolCall):
                    found.append(part.arguments)
                elif isinstance(part, ToolResult):
                    found.append(part.content)
        found.extend(tool.parameters + tool.description for tool in self.tools)
        if self.json_schema:
            found.append(self.json_schema)
        return tuple(found)
