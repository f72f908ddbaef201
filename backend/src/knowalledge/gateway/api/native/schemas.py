"""The bodies of the native API."""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.schemas import (
    MAX_MESSAGES,
    ModelName,
    Output,
    Temperature,
    with_question,
)
from knowalledge.gateway.domain.answer import Answer, CacheInfo, Finish, QueueInfo
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.gateway.domain.request import CacheMode
from knowalledge.web.bodies import decode

# Judged where the headers' are, so that whoever misspells it is told the four.
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
    max_output_tokens: Output | None = None
    temperature: Temperature | None = None
    stream: bool = False
    priority: Level | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=600)] | None = None
    cache: CacheMode | None = None

    def to_prompt(self) -> Prompt:
        """The question as a frozen value; raises ``InvalidRequest`` if there is none, or two."""
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("give either prompt or messages", param="prompt")
        system = [self.system] if self.system else []
        if self.prompt is not None:
            turns = with_question((Message("user", (Text(self.prompt),)),), "prompt")
        else:
            found = self.messages or ()
            system += [it.content for it in found if it.role == "system"]
            turns = with_question(
                [Message(it.role, (Text(it.content),)) for it in found if it.role != "system"], "messages"
            )
        return Prompt(
            turns,
            system="\n".join(system),
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
        )


_decoder = msgspec.json.Decoder(GenerateBody)


def generate_body(body: bytes) -> GenerateBody:
    found: GenerateBody = decode(_decoder, body)
    return found


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


def answer_body(answer: Answer, text: str | UnsetType = UNSET) -> GenerateAnswer:
    """An answer as the native API tells it."""
    usage = answer.usage
    return GenerateAnswer(
        answer.id,
        answer.model,
        answer.target,
        answer.completion.finish,
        UsageBody(usage.input, usage.output, usage.total, usage.cached, usage.thinking),
        answer.cache,
        answer.queue,
        answer.degraded,
        answer.reason,
        text,
    )


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
