"""The frozen values that flow through the gateway.

Every dialect parses into these and renders from these; nothing downstream knows which dialect asked.
JSON documents that the gateway only carries (schemas, tool arguments) stay JSON text: they are never
re-ordered on the way, and values stay hashable.
"""

from enum import IntEnum, StrEnum
from typing import Literal

from msgspec import Struct

from knowalledge.domain.tracing import UNTRACED, Trace


class Priority(IntEnum):
    """Who goes first when the quota is full; lower is more urgent (RFC 9218 urgency 0-1, 2-3, 4-5, 6-7)."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3

    @property
    def label(self) -> str:
        return self.name.lower()


class Finish(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    SAFETY = "safety"
    OTHER = "other"


class CacheMode(StrEnum):
    DEFAULT = "default"
    BYPASS = "bypass"
    ONLY = "only"


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


class Usage(Struct, frozen=True):
    """Tokens as the provider counted them.

    ``output`` excludes ``thinking``; ``input`` includes ``cached`` and ``tool`` (tool-use prompt tokens).
    """

    input: int = 0
    output: int = 0
    thinking: int = 0
    cached: int = 0
    tool: int = 0

    @property
    def generated(self) -> int:
        """What the provider charges on the output side."""
        return self.output + self.thinking

    @property
    def total(self) -> int:
        return self.input + self.output + self.thinking


class Completion(Struct, frozen=True):
    """One whole answer of a provider. ``usage`` is None where the provider did not say."""

    parts: tuple[Text | ToolCall, ...]
    finish: Finish
    usage: Usage | None = None
    model_version: str = ""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


class Chunk(Struct, frozen=True, omit_defaults=True):
    """One step of a streamed answer. ``finish`` is set on the last one only; ``usage`` may come early."""

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    finish: Finish | None = None
    model_version: str = ""


class Embeddings(Struct, frozen=True):
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None = None


class Principal(Struct, frozen=True):
    """Who asks. ``tenant`` partitions caches and fair share."""

    tenant: str = "anonymous"
    max_priority: Priority = Priority.HIGH


class Request(Struct, frozen=True):
    """One question as it enters the service."""

    id: str
    model: str
    prompt: Prompt
    principal: Principal = Principal()
    priority: Priority = Priority.MEDIUM
    timeout_s: float | None = None  # the caller's whole patience; None: the configured one
    cache: CacheMode | None = None  # None: not said; then only what is surely the same twice is cached
    max_age_s: float | None = None  # a stored answer may be so old at most; None: as long as it is fresh
    trace: Trace = UNTRACED


class CacheInfo(Struct, frozen=True):
    status: Literal["hit", "miss", "stale", "shared", "bypass"] = "miss"
    layer: Literal["memory", "redis"] | None = None
    age_s: int = 0


class QueueInfo(Struct, frozen=True):
    waited_ms: int = 0
    position: int = 0  # the place it entered at; 0: did not wait


class Allowance(Struct, frozen=True):
    """What is left of one window of the target that answered, for the RateLimit headers."""

    name: str
    limit: int
    remaining: int
    window_s: int
    resets_s: int
    unit: str = "requests"


class Answer(Struct, frozen=True):
    """What the service gives back for a Request."""

    id: str
    model: str
    target: str
    completion: Completion
    usage: Usage
    cache: CacheInfo = CacheInfo()
    queue: QueueInfo = QueueInfo()
    degraded: bool = False
    reason: str = ""  # why this target
    allowances: tuple[Allowance, ...] = ()


class Queued(Struct, frozen=True, tag=True):
    position: int
    eta_s: float


class Started(Struct, frozen=True, tag=True):
    model: str
    target: str
    allowances: tuple[Allowance, ...] = ()
    degraded: bool = False
    reason: str = ""  # why this target
    cache: CacheInfo = CacheInfo()


class Delta(Struct, frozen=True, tag=True):
    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()


class Done(Struct, frozen=True, tag=True):
    answer: Answer


Event = Queued | Started | Delta | Done
