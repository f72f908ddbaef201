"""Gemini's dialect, under the addresses of the Gemini API and of Vertex AI: only the addresses differ."""

from collections.abc import Callable

from flask import Blueprint, Response
from flask import Request as HttpRequest
from msgspec import Raw

from knowalledge.core.errors import ContentBlocked, InvalidRequest, NotFound
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.gemini import schemas
from knowalledge.gateway.api.gemini.answers import answer_parts, blocked_answer, content_answer
from knowalledge.gateway.api.gemini.models import (
    GEMINI_PREFIX,
    VERTEX_PREFIX,
    describe_model,
    list_models,
)
from knowalledge.gateway.api.gemini.passthrough import whole_body
from knowalledge.gateway.api.gemini.prompts import counted_prompt_of, dimensions_of, prompt_of, text_of
from knowalledge.gateway.api.gemini.stream import ContentStream
from knowalledge.gateway.api.headers import answer_headers
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.web.responses import CompleteResponse, current, json_response

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

_Method = Callable[[str], Response]


def blueprint(api: ApiContext) -> Blueprint:
    """The routes of this dialect."""
    routes = Blueprint("gemini", __name__)
    methods = {**_generating(api), **_embedding(api)}

    # The other variables of a Vertex address say where a model is; ours is where the configuration says.
    def call(call: str, **_: str) -> Response:
        model, _colon, name = call.rpartition(":")  # names of models may hold colons too
        method = methods.get(name)
        if method is None or not model:
            raise NotFound(f"write MODEL:METHOD; the methods are {', '.join(methods)}")
        return method(model)

    def models(**place: str) -> Response:
        return list_models(api, VERTEX_PREFIX if place else GEMINI_PREFIX)

    def model(call: str, **place: str) -> Response:
        return describe_model(api, call, VERTEX_PREFIX if place else GEMINI_PREFIX)

    for address in ADDRESSES:
        name = address.replace(".", "_")
        routes.add_url_rule(f"{address}/<path:call>", f"call {name}", call, methods=["POST"])
        if address != SHARED:
            routes.add_url_rule(address, f"models {name}", models)
            routes.add_url_rule(f"{address}/<path:call>", f"model {name}", model)
    return routes


def _generating(api: ApiContext) -> dict[str, _Method]:
    web = api.web

    def read_prompt(http: HttpRequest, model: str) -> Prompt:
        body = web.read_body(http)
        content, named = schemas.read_named(schemas.GenerateContentBody, body)
        return prompt_of(content, named, (body or b"{}") if api.gateway.speaks(model, "gemini") else None)

    def generate(model: str) -> Response:
        http = current()
        prompt = read_prompt(http, model)
        context = web.request_context(http)
        try:
            answer = api.complete(http, context, api.request(http, model, prompt))
        except ContentBlocked as blocked:
            return json_response(blocked_answer(blocked, model, context.request_id), web.headers(http))
        verbatim = answer.completion.verbatim
        if verbatim is not None:
            return json_response(Raw(whole_body(verbatim)), answer_headers(answer, context.priority))
        body = content_answer(answer, answer_parts(answer.completion.parts))
        return json_response(body, answer_headers(answer, context.priority))

    def stream(model: str) -> Response:
        http = current()
        prompt = read_prompt(http, model)
        context = web.request_context(http)
        renderer = ContentStream(context.request_id, as_array=http.args.get("alt") != "sse")
        try:
            return api.stream(http, context, api.request(http, model, prompt), renderer)
        except ContentBlocked as blocked:
            body = renderer.whole(blocked_answer(blocked, model, context.request_id))
            return CompleteResponse(body, 200, web.headers(http), content_type=renderer.content_type)

    def count_tokens(model: str) -> Response:
        http = current()
        prompt = counted_prompt_of(schemas.read(schemas.CountTokensBody, web.read_body(http)))
        context = web.request_context(http)
        tokens = api.count_tokens(http, context, api.request(http, model, prompt))
        return json_response(schemas.TokenCount(tokens), web.headers(http))

    return {
        "generateContent": generate,
        "streamGenerateContent": stream,
        "countTokens": count_tokens,
    }


def _embedding(api: ApiContext) -> dict[str, _Method]:
    web = api.web

    def embed(model: str) -> Response:
        http = current()
        body = schemas.read(schemas.EmbedContentBody, web.read_body(http))
        texts = (_non_blank(text_of(body.content, "content"), "content"),)
        embeddings, headers = api.embed(http, model, texts, dimensions_of(body))
        return json_response(schemas.Embedded(schemas.Values(embeddings.vectors[0])), headers)

    def embed_batch(model: str) -> Response:
        http = current()
        body = schemas.read(schemas.BatchEmbedContentsBody, web.read_body(http))
        texts = tuple(_non_blank(text_of(it.content, "requests"), "requests") for it in body.requests)
        sizes = {dimensions_of(it) for it in body.requests}
        if len(sizes) > 1:
            raise InvalidRequest("all requests of a batch must ask for one size", param="requests")
        embeddings, headers = api.embed(http, model, texts, sizes.pop())
        return json_response(schemas.BatchEmbedded(tuple(map(schemas.Values, embeddings.vectors))), headers)

    def predict(model: str) -> Response:
        http = current()
        body = schemas.read(schemas.PredictBody, web.read_body(http))
        texts = tuple(_non_blank(it.content, "instances") for it in body.instances)
        size = body.parameters.output_dimensionality if body.parameters else None
        embeddings, headers = api.embed(http, model, texts, size)
        predictions = tuple(schemas.Prediction(schemas.Values(it)) for it in embeddings.vectors)
        return json_response(schemas.Predictions(predictions), headers)

    return {"embedContent": embed, "batchEmbedContents": embed_batch, "predict": predict}


def _non_blank(text: str, param: str) -> str:
    if not text.strip():
        raise InvalidRequest("there is nothing to embed", param=param)
    return text
