"""The native API: ``POST /api/v1/generate``."""

import msgspec
from flask import Blueprint, Response
from msgspec import Struct

from knowalledge.gateway.api import headers
from knowalledge.gateway.api import stream as sse
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.native import schemas as b
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.web.problems import problem
from knowalledge.web.responses import current, json_response

_encode = msgspec.json.Encoder().encode


def _event(name: bytes, data: object) -> bytes:
    return b"event: " + name + b"\ndata: " + _encode(data) + b"\n\n"


class Rendered(Struct, frozen=True):
    """A stream in named events."""

    request_id: str
    content_type: str = sse.CONTENT_TYPE
    heartbeat: bytes = sse.COMMENT

    def opens(self, event: Event) -> bool:  # noqa: ARG002 - all are told, also the place in the queue
        return True

    def event(self, event: Event) -> bytes:
        match event:
            case Delta(text):
                # By hand, as ``Piece``: of these there are more than of all else.
                return b'event: delta\ndata: {"text":%b}\n\n' % _encode(text) if text else b""
            case QueuePosition(position, eta_s):
                return _event(b"queued", b.Place(position, round(eta_s, 1)))
            case Started(model, target):
                return _event(b"started", b.Begun(model, target))
            case Done(answer):
                return _event(b"done", b.answer_body(answer))

    def failed(self, error: BaseException) -> bytes:
        return _event(b"error", problem(error, self.request_id))


def blueprint(api: ApiContext) -> Blueprint:
    """The routes of the native API."""
    routes = Blueprint("native", __name__)

    @routes.post("/api/v1/generate")
    def generate() -> Response:
        http = current()
        body = b.generate_body(api.web.read_body(http))
        prompt = body.to_prompt()
        context = api.web.request_context(http, priority=body.priority, timeout_s=body.timeout_s)
        request = api.request(http, body.model, prompt, cache=body.cache)
        level = ("X-Priority", context.priority.label)
        if body.stream:
            return api.stream(http, context, request, Rendered(context.request_id), [level])
        answer = api.complete(http, context, request)
        return json_response(
            b.answer_body(answer, answer.completion.text), [*headers.of_answer(answer), level]
        )

    return routes
