"""The native API: ``POST /api/v1/generate``."""

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct

from knowalledge.domain.model import Delta, Done, Event, Queued, Started
from knowalledge.domain.model import Request as Question
from knowalledge.web import auth, errors, headers, sse
from knowalledge.web.edge import Edge, json_response
from knowalledge.web.schemas import answer_head, generate_body

_encode = msgspec.json.Encoder().encode


def _event(name: bytes, data: object) -> bytes:
    return b"event: " + name + b"\ndata: " + _encode(data) + b"\n\n"


class Rendered(Struct, frozen=True):
    """A stream in named events."""

    request_id: str
    content_type: str = sse.CONTENT_TYPE
    heartbeat: bytes = sse.COMMENT

    def event(self, event: Event) -> bytes:
        match event:
            case Delta(text):
                return _event(b"delta", {"text": text}) if text else b""
            case Queued(position, eta_s):
                return _event(b"queued", {"position": position, "eta_s": round(eta_s, 1)})
            case Started(model, target):
                return _event(b"started", {"model": model, "target": target})
            case Done(answer):
                return _event(b"done", answer_head(answer))

    def failed(self, error: BaseException) -> bytes:
        return _event(b"error", errors.problem(error, self.request_id))


def blueprint(edge: Edge) -> Blueprint:
    """The routes of the native API."""
    routes = Blueprint("native", __name__)

    @routes.post("/api/v1/generate")
    def generate() -> Response:
        key = auth.request_id(request, edge.new_id)
        body = generate_body(edge.body(request))
        question = Question(
            id=key,
            model=body.model,
            prompt=body.to_prompt(),
            principal=edge.anonymous,
            priority=auth.priority(request, body.priority, edge.anonymous),
            timeout_s=None if body.timeout_s is None else min(body.timeout_s, edge.max_timeout_s),
            cache=body.cache,
        )
        level = ("X-Priority", question.priority.label)
        if body.stream:
            return edge.stream(question, Rendered(key), [level])
        answer = edge.completer.complete(question)
        return json_response(
            {**answer_head(answer), "text": answer.completion.text}, [*headers.of_answer(answer), level]
        )

    return routes
