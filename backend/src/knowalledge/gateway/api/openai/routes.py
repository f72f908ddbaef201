"""OpenAI's dialect: ``/v1/chat/completions``, ``/v1/embeddings``, ``/v1/models``."""

from flask import Blueprint, Response

from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.gemini import models as gemini_models
from knowalledge.gateway.api.headers import answer_headers
from knowalledge.gateway.api.openai import schemas
from knowalledge.gateway.api.openai.answers import chat_completion, embedding_list, model_card
from knowalledge.gateway.api.openai.prompts import prompt_of, texts_of
from knowalledge.gateway.api.openai.stream import ChatStream
from knowalledge.web.responses import current, json_response


def blueprint(api: ApiContext) -> Blueprint:
    """The routes of this dialect. Gemini's has ``GET /v1/models`` too: Google's clients get its form."""
    routes = Blueprint("openai", __name__)

    @routes.post("/v1/chat/completions")
    def chat() -> Response:
        http = current()
        body = schemas.read_chat(api.web.read_body(http))
        prompt = prompt_of(body)
        context = api.web.request_context(http)
        request = api.request(http, body.model, prompt)
        if body.stream:
            options = body.stream_options
            include_usage = bool(options and options.include_usage)
            renderer = ChatStream(context.request_id, request.model, int(api.web.now()), include_usage)
            return api.stream(http, context, request, renderer)
        answer = api.complete(http, context, request)
        completion = chat_completion(answer, int(api.web.now()))
        return json_response(completion, answer_headers(answer, context.priority))

    @routes.post("/v1/embeddings")
    def embeddings() -> Response:
        http = current()
        body = schemas.read_embeddings(api.web.read_body(http))
        result, headers = api.embed(http, body.model, texts_of(body), body.dimensions)
        return json_response(embedding_list(result, body.model, body.encoding_format == "base64"), headers)

    @routes.get("/v1/models")
    def models() -> Response:
        http = current()
        if gemini_models.is_google_client(http):
            return gemini_models.list_models(api)
        cards = tuple(map(model_card, api.models(http)))
        return json_response(schemas.ModelCards(cards), api.web.headers(http))

    @routes.get("/v1/models/<path:model>")
    def model(model: str) -> Response:
        http = current()
        if gemini_models.is_google_client(http):
            return gemini_models.describe_model(api, model)
        return json_response(model_card(api.model(http, model)), api.web.headers(http))

    return routes
