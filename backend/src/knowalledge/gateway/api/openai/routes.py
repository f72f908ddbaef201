"""OpenAI's dialect: ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/models``."""

import sys
from array import array
from base64 import b64encode

import msgspec
from flask import Blueprint, Response

from knowalledge.gateway.api import headers
from knowalledge.gateway.api import stream as sse
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.gemini import routes as gemini
from knowalledge.gateway.api.openai import schemas as b
from knowalledge.gateway.api.openai.errors import error_body
from knowalledge.gateway.domain.answer import Answer, Finish, Usage
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.gateway.domain.prompt import ToolCall
from knowalledge.web.responses import current, json_response

_encode = msgspec.json.Encoder().encode
_FINISH: dict[Finish, b.FinishReason] = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.SAFETY: "content_filter",
    Finish.OTHER: "stop",
}


def _usage(usage: Usage) -> b.ChatUsage:
    return b.ChatUsage(
        usage.input,
        usage.generated,
        usage.total,
        b.PromptDetails(usage.cached),
        b.CompletionDetails(usage.thinking),
    )


def _call_id(call: ToolCall, request_id: str, index: int) -> str:
    """The provider's id, else one that no other call of the conversation has."""
    return call.id or f"call_{request_id}_{index}"


def _extra(call: ToolCall) -> b.ExtraContent | msgspec.UnsetType:
    return b.ExtraContent(b.GoogleExtra(call.signature)) if call.signature else msgspec.UNSET


def _finish(answer: Answer) -> b.FinishReason:
    return "tool_calls" if answer.completion.tool_calls else _FINISH[answer.completion.finish]


def completion(answer: Answer, created: int) -> b.ChatCompletion:
    """A whole answer in this dialect."""
    calls = tuple(
        b.Call(
            _call_id(call, answer.id, index),
            b.FunctionCall(call.name, call.arguments),
            extra_content=_extra(call),
        )
        for index, call in enumerate(answer.completion.tool_calls)
    )
    text = answer.completion.text
    said = b.Said(None if calls and not text else text, calls or msgspec.UNSET)
    return b.ChatCompletion(
        f"chatcmpl-{answer.id}",
        created,
        answer.model,
        (b.Choice(said, _finish(answer)),),
        _usage(answer.usage),
    )


class Rendered:
    """A stream of chunks that ends with ``[DONE]``."""

    content_type = sse.CONTENT_TYPE
    heartbeat = sse.COMMENT

    def __init__(self, request_id: str, model: str, created: int, with_usage: bool) -> None:
        self._id = request_id
        self._model = model
        self._created = created
        self._usage: msgspec.UnsetType | None = None if with_usage else msgspec.UNSET
        self._calls = 0

    def opens(self, event: Event) -> bool:
        return not isinstance(
            event, QueuePosition
        )  # who waits in vain gets a status, which the SDKs understand

    def event(self, event: Event) -> bytes:
        match event:
            case Delta(text, calls):
                delta = b.DeltaBody(
                    content=text or msgspec.UNSET, tool_calls=self._pieces(calls) if calls else msgspec.UNSET
                )
                return self._chunk(b.ChunkChoice(delta))
            case QueuePosition(position, eta_s):
                return b": queued position=%d eta_s=%.1f\n\n" % (position, eta_s)
            case Started(model):
                self._model = model
                return self._chunk(b.ChunkChoice(b.DeltaBody(role="assistant", content="")))
            case Done(answer):
                last = self._chunk(b.ChunkChoice(b.DeltaBody(), _finish(answer)))
                if self._usage is None:
                    last += self._data(self._whole((), _usage(answer.usage)))
                return last + b"data: [DONE]\n\n"

    def failed(self, error: BaseException) -> bytes:
        return self._data(error_body(error, self._id))

    def _pieces(self, calls: tuple[ToolCall, ...]) -> tuple[b.PieceOfCall, ...]:
        first = self._calls
        self._calls += len(calls)
        return tuple(
            b.PieceOfCall(
                index,
                _call_id(it, self._id, index),
                b.FunctionCall(it.name, it.arguments),
                extra_content=_extra(it),
            )
            for index, it in enumerate(calls, first)
        )

    def _chunk(self, choice: b.ChunkChoice) -> bytes:
        return self._data(self._whole((choice,), self._usage))

    def _whole(
        self, choices: tuple[b.ChunkChoice, ...], usage: b.ChatUsage | msgspec.UnsetType | None
    ) -> b.ChatChunk:
        return b.ChatChunk(f"chatcmpl-{self._id}", self._created, self._model, choices, usage)

    @staticmethod
    def _data(body: object) -> bytes:
        return b"data: " + _encode(body) + b"\n\n"


def packed(vector: tuple[float, ...]) -> str:
    """A vector as the base64 of little-endian 32-bit floats."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return b64encode(floats.tobytes()).decode()


def blueprint(api: ApiContext) -> Blueprint:
    """The routes of this dialect."""
    routes = Blueprint("openai", __name__)

    @routes.post("/v1/chat/completions")
    def chat() -> Response:
        http = current()
        body = b.chat_body(api.web.read_body(http))
        prompt = body.to_prompt()
        context = api.web.request_context(http)
        request = api.request(http, body.model, prompt)
        level = ("X-Priority", context.priority.label)
        if body.stream:
            options = body.stream_options
            rendered = Rendered(
                context.request_id, request.model, int(api.web.now()), bool(options and options.include_usage)
            )
            return api.stream(http, context, request, rendered, [level])
        answer = api.complete(http, context, request)
        return json_response(completion(answer, int(api.web.now())), [*headers.of_answer(answer), level])

    @routes.post("/v1/embeddings")
    def embeddings() -> Response:
        http = current()
        body = b.embeddings_body(api.web.read_body(http))
        found, head = api.embed(http, body.model, body.texts(), body.dimensions)
        as_text = body.encoding_format == "base64"
        tokens = found.usage.input if found.usage else 0
        data = tuple(b.Vector(index, packed(it) if as_text else it) for index, it in enumerate(found.vectors))
        return json_response(b.EmbeddingList(data, body.model, b.EmbeddingUsage(tokens, tokens)), head)

    @routes.get("/v1/models")
    def models() -> Response:
        http = current()
        if gemini.speaks(http):
            return gemini.listed(api)
        cards = tuple(map(_card, api.gateway.models()))
        return json_response(b.ModelCards(cards), api.web.headers(http))

    @routes.get("/v1/models/<path:model>")
    def model(model: str) -> Response:
        http = current()
        if gemini.speaks(http):
            return gemini.described(api, model)
        return json_response(_card(api.gateway.model(model)), api.web.headers(http))

    return routes


def _card(name: str) -> b.ModelCard:
    return b.ModelCard(name, created=0)  # nobody tells us since when a provider serves it
