"""The bodies of the native API: they validate, and the OpenAPI document is made from them."""

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta, Struct

from knowalledge.domain import errors as e
from knowalledge.domain.model import Answer, CacheMode, Message, Prompt, Text

MAX_MESSAGES = 1000
MAX_OUTPUT = 65_536

Temperature = Annotated[float, Meta(ge=0, le=2)]
Output = Annotated[int, Meta(ge=1, le=MAX_OUTPUT)]


class NativeMessage(Struct, forbid_unknown_fields=True):
    """One turn of a conversation."""

    role: Literal["user", "assistant", "system"]
    content: Annotated[str, Meta(min_length=1)]


class GenerateBody(Struct, forbid_unknown_fields=True):
    """What to generate: ``prompt``, or ``messages``."""

    model: Annotated[str, Meta(max_length=200)] = ""
    prompt: str | None = None
    messages: Annotated[tuple[NativeMessage, ...], Meta(max_length=MAX_MESSAGES)] | None = None
    system: str = ""
    max_output_tokens: Output | None = None
    temperature: Temperature | None = None
    stream: bool = False
    priority: Literal["critical", "high", "medium", "low"] | None = None
    timeout_s: Annotated[float, Meta(gt=0, le=600)] | None = None
    cache: CacheMode = CacheMode.DEFAULT

    def to_prompt(self) -> Prompt:
        """The question as a frozen value; raises ``InvalidRequest`` if there is none, or two."""
        if (self.prompt is None) == (self.messages is None):
            raise e.InvalidRequest("give either prompt or messages", param="prompt")
        system = [self.system] if self.system else []
        if self.prompt is not None:
            if not self.prompt.strip():
                raise e.InvalidRequest("the prompt is empty", param="prompt")
            turns: tuple[Message, ...] = (Message("user", (Text(self.prompt),)),)
        else:
            found = self.messages or ()
            system += [it.content for it in found if it.role == "system"]
            turns = tuple(Message(it.role, (Text(it.content),)) for it in found if it.role != "system")
            if not turns:
                raise e.InvalidRequest("messages hold no question", param="messages")
        return Prompt(
            turns,
            system="\n".join(system),
            max_output_tokens=self.max_output_tokens,
            temperature=self.temperature,
        )


_decoder = msgspec.json.Decoder(GenerateBody)


def decode(decoder: "msgspec.json.Decoder[Any]", body: bytes) -> Any:
    """A body as its type; a fault is an ``InvalidRequest`` that names the field, never the value."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        text = str(error)
        where = text.rsplit("`", 2)[1] if text.endswith("`") else ""
        raise e.InvalidRequest(text, param=where.removeprefix("$.").removeprefix("$")) from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise e.InvalidRequest("the body is not JSON") from error
    except RecursionError as error:
        raise e.InvalidRequest("the body is nested too deeply") from error


def generate_body(body: bytes) -> GenerateBody:
    found: GenerateBody = decode(_decoder, body)
    return found


def answer_head(answer: Answer) -> dict[str, Any]:
    """Everything about an answer but its text: what the stream's last event says."""
    usage = answer.usage
    return {
        "id": answer.id,
        "model": answer.model,
        "target": answer.target,
        "finish_reason": answer.completion.finish,
        "usage": {
            "input_tokens": usage.input,
            "output_tokens": usage.output,
            "total_tokens": usage.total,
            "cached_tokens": usage.cached,
            "thinking_tokens": usage.thinking,
        },
        "cache": answer.cache,
        "queue": answer.queue,
        "degraded": answer.degraded,
        "reason": answer.reason,
    }
