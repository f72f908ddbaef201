"""The native API: ``POST /api/v1/generate``."""

from flask import Blueprint, Response

from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.headers import answer_headers
from knowalledge.gateway.api.native.answers import answer_body
from knowalledge.gateway.api.native.prompts import prompt_of
from knowalledge.gateway.api.native.schemas import read_generate
from knowalledge.gateway.api.native.stream import NativeStream
from knowalledge.web.responses import current, json_response


def blueprint(api: ApiContext) -> Blueprint:
    """The routes of the native API."""
    routes = Blueprint("native", __name__)

    @routes.post("/api/v1/generate")
    def generate() -> Response:
        http = current()
        body = read_generate(api.web.read_body(http))
        prompt = prompt_of(body)
        context = api.web.request_context(http, priority=body.priority, timeout_s=body.timeout_s)
        request = api.request(http, body.model, prompt, cache=body.cache)
        if body.stream:
            return api.stream(http, context, request, NativeStream(context.request_id))
        answer = api.complete(http, context, request)
        return json_response(
            answer_body(answer, answer.completion.text), answer_headers(answer, context.priority)
        )

    return routes
