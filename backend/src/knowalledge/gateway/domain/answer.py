"""What a model answers, whole or in chunks."""

from enum import StrEnum
from typing import Literal

from msgspec import Struct

from knowalledge.core.limits import Allowance
from knowalledge.gateway.domain.passthrough import Verbatim
from knowalledge.gateway.domain.prompt import Text, ToolCall


class Finish(StrEnum):
    """Why a model stopped."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    SAFETY = "safety"
    OTHER = "other"


class Usage(Struct, frozen=True):
    """Tokens as the provider counted them.

    ``output`` excludes ``thinking``; ``input`` includes ``cached`` and ``tool`` (the prompt tokens of tool use).
    """

    input: int = 0
    output: int = 0
    thinking: int = 0
    cached: int = 0
    tool: int = 0

    @property
    def generated(self) -> int:
        """Output tokens as providers charge them: thinking included."""
        return self.output + self.thinking

    @property
    def total(self) -> int:
        return self.input + self.output + self.thinking


class Completion(Struct, frozen=True, omit_defaults=True):
    """One whole answer of a provider. ``usage`` is None if the provider gave no count.

    ``verbatim`` is the same in the provider's own words, for a client of its dialect.
    """

    parts: tuple[Text | ToolCall, ...]
    finish: Finish
    usage: Usage | None = None
    model_version: str = ""
    verbatim: Verbatim | None = None
    reason: str = ""  # the provider's word for why the model stopped, where ``finish`` is OTHER

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text))

    @property
    def tool_calls(self) -> tuple[ToolCall, ...]:
        return tuple(part for part in self.parts if isinstance(part, ToolCall))


class Chunk(Struct, frozen=True, omit_defaults=True):
    """One step of a streamed answer. Only the last has ``finish``; ``usage`` may come earlier, and more than once.

    ``verbatim`` is the same in the provider's own words; its ``data`` is empty where they have been given before.
    ``has_content`` is true where those words hold a part of the answer that is neither text nor a whole call.
    """

    text: str = ""
    tool_calls: tuple[ToolCall, ...] = ()
    usage: Usage | None = None
    finish: Finish | None = None
    model_version: str = ""
    verbatim: Verbatim | None = None
    has_content: bool = False
    reason: str = ""  # as in ``Completion``


class Embeddings(Struct, frozen=True):
    vectors: tuple[tuple[float, ...], ...]
    usage: Usage | None = None


# The layers of the cache that may give an answer, as clients read them.
CacheLayer = Literal["memory", "redis"]


class CacheInfo(Struct, frozen=True):
    status: Literal["hit", "miss", "stale", "shared", "bypass"] = "miss"
    layer: CacheLayer | None = None
    age_s: int = 0


class QueueInfo(Struct, frozen=True):
    waited_ms: int = 0
    position: int = 0  # of the first entry into a queue; 0: did not wait


class Answer(Struct, frozen=True):
    """The gateway's answer to a ``Request``."""

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
