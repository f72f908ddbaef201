"""OpenAI's dialect: ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/models``."""

from flask import Blueprint, Response
from msgspec import Raw

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.gemini import models as gemini_models
from knowalledge.gateway.api.headers import answer_headers
from knowalledge.gateway.api.openai import schemas
from knowalledge.gateway.api.openai.answers import (
    chat_completion,
    completion_id,
    embedding_list,
    model_card,
)
from knowalledge.gateway.api.openai.passthrough import (
    Envelope,
    Heading,
    opaque_prompt,
    read_envelope,
    whole_body,
)
from knowalledge.gateway.api.openai.prompts import prompt_of, texts_of
from knowalledge.gateway.api.openai.stream import ChatStream
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.web.responses import current, json_response

# OpenAI's address, and that of Google's OpenAI-compatible API.
BASES = ("/v1", "/v1beta/openai")


def blueprint(api: ApiContext) -> Blueprint:
    """The routes of this dialect. Gemini's has ``GET /v1/models`` too: Google's clients get its form."""
    routes = Blueprint("openai", __name__)

    def chat() -> Response:
        http = current()
        body, prompt = _read_chat(api, api.web.read_body(http))
        context = api.web.request_context(http)
        request = api.request(http, body.model, prompt)
        if body.stream:
            include_usage = _includes_usage(body)
            renderer = ChatStream(context.request_id, request.model, int(api.web.now()), include_usage)
            return api.stream(http, context, request, renderer)
        answer = api.complete(http, context, request)
        verbatim = answer.completion.verbatim
        if verbatim is not None:
            heading = Heading(completion_id(answer.id), int(api.web.now()), answer.model)
            return json_response(Raw(whole_body(verbatim, heading)), answer_headers(answer, context.priority))
        completion = chat_completion(answer, int(api.web.now()))
        return json_response(completion, answer_headers(answer, context.priority))

    def embeddings() -> Response:
        http = current()
        body = schemas.read_embeddings(api.web.read_body(http))
        result, headers = api.embed(http, body.model, texts_of(body), body.dimensions)
        return json_response(embedding_list(result, body.model, body.encoding_format == "base64"), headers)

    def models() -> Response:
        http = current()
        if gemini_models.is_google_client(http):
            return gemini_models.list_models(api)
        cards = tuple(map(model_card, api.models(http)))
        return json_response(schemas.ModelCards(cards), api.web.headers(http))

    def model(model: str) -> Response:
        http = current()
        if gemini_models.is_google_client(http):
            return gemini_models.describe_model(api, model)
        return json_response(model_card(api.model(http, model)), api.web.headers(http))

    for base in BASES:
        end = base.replace("/", " ").replace(".", "_")
        routes.add_url_rule(f"{base}/chat/completions", f"chat{end}", chat, methods=["POST"])
        routes.add_url_rule(f"{base}/embeddings", f"embeddings{end}", embeddings, methods=["POST"])
        routes.add_url_rule(f"{base}/models", f"models{end}", models)
        routes.add_url_rule(f"{base}/models/<path:model>", f"model{end}", model)
    return routes


def _read_chat(api: ApiContext, body: bytes) -> tuple[schemas.ChatBody | Envelope, Prompt]:
    """The body, and its prompt. Raises ``InvalidRequest``.

    A kind of part, tool or format that is unknown here is for the provider to judge, if one of this dialect may answer.
    """
    try:
        chat = schemas.read_chat(body)
    except InvalidRequest as error:
        envelope = read_envelope(body) if schemas.names_unknown_kind(error) else None
        if envelope is None or not api.gateway.speaks(envelope.model, "openai"):
            raise
        return envelope, opaque_prompt(envelope, body, error)
    return chat, prompt_of(chat, body, api.gateway.speaks(chat.model, "openai"))


def _includes_usage(body: schemas.ChatBody | Envelope) -> bool:
    options = body.stream_options
    if isinstance(options, dict):
        return bool(options.get("include_usage"))
    return bool(options and options.include_usage)
