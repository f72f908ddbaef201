"""The bodies of the native API."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from knowalledge.gateway.api.schemas import MAX_MESSAGES, ModelName, OutputTokens, Temperature
from knowalledge.gateway.domain.answer import CacheInfo, Finish, QueueInfo
from knowalledge.gateway.domain.request import CacheMode
from knowalledge.web.bodies import decode

# Any string: ``web.request_identity.priority`` checks it, as it does the headers', and its error names the levels.
Level = Annotated[str, Meta(extra_json_schema={"enum": ["critical", "high", "medium", "low"]})]


class NativeMessage(Struct, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[str, Meta(min_length=1)]


class GenerateBody(Struct, forbid_unknown_fields=True):
    """What to generate: ``prompt``, or ``messages``."""

    model: ModelName = ""
    prompt: str | None = None
    messages: Annotated[tuple[NativeMessage, ...], Meta(max_length=MAX_MESSAGES)] | None = None
    system: str = ""
    max_output_tokens: OutputTokens | None = None
    temperature: Temperature | None = None
    stream: bool = False
    priority: Level | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=600)] | None = None
    cache: CacheMode | None = None


_decoder = msgspec.json.Decoder(GenerateBody)


def read_generate(body: bytes) -> GenerateBody:
    """Raises ``InvalidRequest``."""
    generate: GenerateBody = decode(_decoder, body)
    return generate


class UsageBody(Struct, frozen=True):
    """Tokens as the provider counted them."""

    input_tokens: int
    output_tokens: int
    total_tokens: int
    cached_tokens: int
    thinking_tokens: int


class GenerateAnswer(Struct, frozen=True):
    """A whole answer; without ``text`` it is the last event of a stream."""

    id: str
    model: str
    target: str
    finish_reason: Finish
    usage: UsageBody
    cache: CacheInfo
    queue: QueueInfo
    degraded: bool
    reason: str
    text: str | UnsetType = UNSET


class Place(Struct, frozen=True):
    """The event ``queued``: the place in the waiting room, and the seconds until its turn."""

    position: int
    eta_s: float


class Begun(Struct, frozen=True):
    """The event ``started``: who answers."""

    model: str
    target: str


class Piece(Struct, frozen=True):
    """The event ``delta``: more of the text."""

    text: str
