"""A streamed answer of OpenAI's dialect: chunks, then ``[DONE]``."""

import msgspec
from msgspec import UNSET, UnsetType

from knowalledge.gateway.api.openai import schemas
from knowalledge.gateway.api.openai.answers import (
    call_id,
    chat_usage,
    completion_id,
    extra_content,
    finish_reason,
)
from knowalledge.gateway.api.openai.errors import error_body
from knowalledge.gateway.api.openai.passthrough import Heading, event_data, usage_data
from knowalledge.gateway.api.streaming import CONTENT_TYPE, KEEP_ALIVE
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.gateway.domain.passthrough import Verbatim, frames
from knowalledge.gateway.domain.prompt import ToolCall

_encode = msgspec.json.Encoder().encode


class ChatStream:
    """Implements ``StreamRenderer``."""

    content_type = CONTENT_TYPE
    heartbeat = KEEP_ALIVE

    def __init__(self, request_id: str, model: str, created: int, include_usage: bool) -> None:
        """``created`` is in seconds since the epoch."""
        self._request_id = request_id
        self._id = completion_id(request_id)
        self._model = model
        self._created = created
        self._usage: UnsetType | None = None if include_usage else UNSET
        self._calls = 0
        self._role_due = False  # the answer has begun, its first chunk is not sent
        self._passes = False  # the provider's own words are sent

    def opens(self, event: Event) -> bool:
        return not isinstance(
            event, QueuePosition
        )  # the SDKs understand a status better than an empty stream

    def render(self, event: Event) -> bytes:
        match event:
            case Delta(verbatim=Verbatim() as verbatim):
                return self._pass_on(verbatim)
            case Delta(text, calls):
                delta = schemas.DeltaBody(
                    content=text or UNSET, tool_calls=self._call_pieces(calls) if calls else UNSET
                )
                return self._role() + self._chunk(schemas.ChunkChoice(delta))
            case QueuePosition(position, eta_s):
                return b": queued position=%d eta_s=%.1f\n\n" % (position, eta_s)
            case Started(model):
                self._model, self._role_due = model, True
                return b""
            case Done(answer):
                last = b""
                if not self._passes:
                    last = self._role() + self._chunk(
                        schemas.ChunkChoice(schemas.DeltaBody(), finish_reason(answer))
                    )
                if self._usage is None:
                    last += _data(self._chunk_body((), chat_usage(answer.usage)))
                return last + b"data: [DONE]\n\n"

    def _role(self) -> bytes:
        """The chunk that begins an answer of ours; the provider's own words begin with one of theirs."""
        if not self._role_due:
            return b""
        self._role_due = False
        return self._chunk(schemas.ChunkChoice(schemas.DeltaBody(role="assistant", content="")))

    def _pass_on(self, verbatim: Verbatim) -> bytes:
        self._passes, self._role_due = True, False
        if not (verbatim.usage or verbatim.whole or verbatim.lacks_fields):
            return frames(verbatim.data) if verbatim.data else b""
        heading = Heading(self._id, self._created, self._model)
        data = event_data(verbatim, heading)
        if self._usage is None and (usage := usage_data(verbatim, heading)):
            self._usage = UNSET  # it is told once
            data += usage
        return data

    def render_error(self, error: BaseException) -> bytes:
        return _data(error_body(error, self._request_id))

    def _call_pieces(self, calls: tuple[ToolCall, ...]) -> tuple[schemas.PieceOfCall, ...]:
        first = self._calls
        self._calls += len(calls)
        return tuple(
            schemas.PieceOfCall(
                index,
                call_id(it, self._request_id, index),
                schemas.FunctionCall(it.name, it.arguments),
                extra_content=extra_content(it),
            )
            for index, it in enumerate(calls, first)
        )

    def _chunk(self, choice: schemas.ChunkChoice) -> bytes:
        return _data(self._chunk_body((choice,), self._usage))

    def _chunk_body(
        self, choices: tuple[schemas.ChunkChoice, ...], usage: schemas.ChatUsage | UnsetType | None
    ) -> schemas.ChatChunk:
        return schemas.ChatChunk(self._id, self._created, self._model, choices, usage)


def _data(body: object) -> bytes:
    return b"data: " + _encode(body) + b"\n\n"
