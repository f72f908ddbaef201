"""Gemini's dialect, under the addresses of the Gemini API and of Vertex AI: only these differ."""

from collections.abc import Callable
from typing import Any

import msgspec
from flask import Blueprint, Request, Response
from msgspec import UNSET, Raw

from knowalledge.core.errors import InvalidRequest, NotFound
from knowalledge.gateway.api import headers
from knowalledge.gateway.api import stream as sse
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.gemini import schemas as b
from knowalledge.gateway.api.gemini.errors import error_body
from knowalledge.gateway.domain.answer import Answer, Finish, Usage
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.gateway.domain.prompt import Text, ToolCall
from knowalledge.web.responses import current, json_response

_encode = msgspec.json.Encoder().encode
_FINISH: dict[Finish, Any] = {
    Finish.STOP: "STOP",
    Finish.LENGTH: "MAX_TOKENS",
    Finish.TOOL_CALLS: "STOP",
    Finish.SAFETY: "SAFETY",
    Finish.OTHER: "OTHER",
}
# OpenAI's dialect lists its models here too.
SHARED = "/v1/models"
# Where the models of the Gemini API are, then those of Vertex AI: without a project (its express mode) and with one.
ADDRESSES = (
    "/v1beta/models",
    SHARED,
    "/v1/publishers/<publisher>/models",
    "/v1beta1/publishers/<publisher>/models",
    "/v1/projects/<project>/locations/<location>/publishers/<publisher>/models",
    "/v1beta1/projects/<project>/locations/<location>/publishers/<publisher>/models",
)
GEMINI_NAMES, VERTEX_NAMES = "models/", "publishers/google/models/"


def speaks(asking: Request) -> bool:
    """Whether Google's clients ask: `/v1/models` is an address of the Gemini API and of OpenAI's."""
    environ = asking.environ
    return "HTTP_X_GOOG_API_KEY" in environ or "HTTP_X_GOOG_API_CLIENT" in environ


def _usage(usage: Usage) -> b.UsageMetadata:
    return b.UsageMetadata(
        usage.input - usage.tool,
        usage.output,
        usage.total,
        usage.thinking or UNSET,
        usage.cached or UNSET,
        usage.tool or UNSET,
    )


def _parts(parts: tuple[Text | ToolCall, ...]) -> tuple[b.AnswerPart, ...]:
    return tuple(
        b.AnswerPart(part.text)
        if isinstance(part, Text)
        else b.AnswerPart(
            function_call=b.AskedCall(part.name, Raw(part.arguments.encode() or b"{}"), part.id),
            thought_signature=part.signature or UNSET,
        )
        for part in parts
    )


def content(answer: Answer, parts: tuple[b.AnswerPart, ...]) -> b.GenerateContentAnswer:
    """An answer in this dialect, with the given parts of it."""
    done = answer.completion
    return b.GenerateContentAnswer(
        (b.Candidate(b.AnswerContent(parts), _FINISH[done.finish]),),
        done.model_version or answer.model,
        answer.id,
        _usage(answer.usage),
    )


class Rendered:
    """A stream of server-sent events, or of the elements of one JSON array.

    A silent stream says empty lines: clients of this dialect trip over comments.
    """

    heartbeat = b"\n"

    def __init__(self, request_id: str, as_array: bool) -> None:
        self._id = request_id
        self._model = ""
        self._before = b"[" if as_array else b"data: "
        self._after = b"\n" if as_array else b"\n\n"
        self._end = b"]\n" if as_array else b""
        self.content_type = "application/json" if as_array else sse.CONTENT_TYPE

    def opens(self, event: Event) -> bool:
        return not isinstance(
            event, QueuePosition
        )  # who waits in vain gets a status, which the SDKs understand

    def event(self, event: Event) -> bytes:
        match event:
            case Delta(text, calls):
                parts = _parts(((Text(text),) if text else ()) + calls)
                return self._next(
                    b.GenerateContentAnswer((b.Candidate(b.AnswerContent(parts)),), self._model, self._id)
                )
            case Started(model):
                self._model = model
                return b""
            case QueuePosition():
                return self.heartbeat
            case Done(answer):
                return self._next(content(answer, (b.AnswerPart(""),))) + self._end

    def failed(self, error: BaseException) -> bytes:
        return self._next(error_body(error, self._id)) + self._end

    def _next(self, body: object) -> bytes:
        found = self._before + _encode(body) + self._after
        if self._end:
            self._before = b","
        return found


def blueprint(api: ApiContext) -> Blueprint:
    """The routes of this dialect."""
    routes = Blueprint("gemini", __name__)

    def generate(model: str) -> Response:
        http = current()
        prompt = b.read(b.GenerateContentBody, api.web.read_body(http)).to_prompt()
        context = api.web.request_context(http)
        answer = api.complete(http, context, api.request(http, model, prompt))
        parts = _parts(answer.completion.parts) or (b.AnswerPart(""),)
        level = ("X-Priority", context.priority.label)
        return json_response(content(answer, parts), [*headers.of_answer(answer), level])

    def stream(model: str) -> Response:
        http = current()
        prompt = b.read(b.GenerateContentBody, api.web.read_body(http)).to_prompt()
        context = api.web.request_context(http)
        request = api.request(http, model, prompt)
        rendered = Rendered(context.request_id, as_array=http.args.get("alt") != "sse")
        return api.stream(http, context, request, rendered, [("X-Priority", context.priority.label)])

    def count(model: str) -> Response:
        http = current()
        prompt = b.read(b.CountTokensBody, api.web.read_body(http)).to_prompt()
        context = api.web.request_context(http)
        tokens = api.count_tokens(http, context, api.request(http, model, prompt))
        return json_response(b.TokenCount(tokens), api.web.headers(http))

    def embed(model: str) -> Response:
        http = current()
        body: b.EmbedContentBody = b.read(b.EmbedContentBody, api.web.read_body(http))
        texts = (_embeddable(body.content.text("content"), "content"),)
        found, head = api.embed(http, model, texts, body.dimensions())
        return json_response(b.Embedded(b.Values(found.vectors[0])), head)

    def embed_batch(model: str) -> Response:
        http = current()
        body: b.BatchEmbedContentsBody = b.read(b.BatchEmbedContentsBody, api.web.read_body(http))
        texts = tuple(_embeddable(it.content.text("requests"), "requests") for it in body.requests)
        sizes = {it.dimensions() for it in body.requests}
        if len(sizes) > 1:
            raise InvalidRequest("all requests of a batch must ask for one size", param="requests")
        found, head = api.embed(http, model, texts, sizes.pop())
        return json_response(b.BatchEmbedded(tuple(map(b.Values, found.vectors))), head)

    def predict(model: str) -> Response:
        http = current()
        body: b.PredictBody = b.read(b.PredictBody, api.web.read_body(http))
        texts = tuple(_embeddable(it.content, "instances") for it in body.instances)
        size = body.parameters.output_dimensionality if body.parameters else None
        found, head = api.embed(http, model, texts, size)
        return json_response(b.Predictions(tuple(b.Prediction(b.Values(it)) for it in found.vectors)), head)

    methods: dict[str, Callable[[str], Response]] = {
        "generateContent": generate,
        "streamGenerateContent": stream,
        "countTokens": count,
        "embedContent": embed,
        "batchEmbedContents": embed_batch,
        "predict": predict,
    }

    # Elsewhere in a Vertex address stands where the model is; ours is where the configuration says.
    def call(call: str, **_where: str) -> Response:
        model, _, name = call.rpartition(":")  # names of models may hold colons too
        method = methods.get(name)
        if method is None or not model:
            raise NotFound(f"write MODEL:METHOD; the methods are {', '.join(methods)}")
        return method(model)

    def models(**where: str) -> Response:
        return listed(api, VERTEX_NAMES if where else GEMINI_NAMES)

    def model(call: str, **where: str) -> Response:
        return described(api, call, VERTEX_NAMES if where else GEMINI_NAMES)

    for base in ADDRESSES:
        name = base.replace(".", "_")
        routes.add_url_rule(f"{base}/<path:call>", f"call {name}", call, methods=["POST"])
        if base != SHARED:
            routes.add_url_rule(base, f"models {name}", models)
            routes.add_url_rule(f"{base}/<path:call>", f"model {name}", model)
    return routes


def _embeddable(text: str, where: str) -> str:
    if not text.strip():
        raise InvalidRequest("there is nothing to embed", param=where)
    return text


def listed(api: ApiContext, base: str = GEMINI_NAMES) -> Response:
    """Every model that may be named; ``base`` is how its names begin."""
    found = tuple(b.GoogleModel(base + name, name) for name in api.gateway.models())
    body = b.GoogleModels(found) if base == GEMINI_NAMES else b.PublisherModels(found)
    return json_response(body, api.web.headers(current()))


def described(api: ApiContext, model: str, base: str = GEMINI_NAMES) -> Response:
    """One model."""
    name = api.gateway.model(model)
    return json_response(b.GoogleModel(base + name, name), api.web.headers(current()))
