"""The native API: ``POST /api/v1/generate``."""

from functools import partial

from flask import Blueprint, Response, request

from knowalledge.domain.model import Delta, Done, Event, Queued, Started
from knowalledge.domain.model import Request as Question
from knowalledge.web import auth, headers
from knowalledge.web.edge import Edge, event, json_response, problem_event
from knowalledge.web.schemas import answer_head, generate_body


def render(found: Event) -> bytes:
    """One event of a stream."""
    match found:
        case Queued(position, eta_s):
            return event("queued", {"position": position, "eta_s": round(eta_s, 1)})
        case Started(model, target):
            return event("started", {"model": model, "target": target})
        case Delta(text):
            return event("delta", {"text": text})
        case Done(answer):
            return event("done", answer_head(answer))


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
            return edge.stream(question, render, partial(problem_event, request_id=key), [level])
        answer = edge.completer.complete(question)
        return json_response(
            {**answer_head(answer), "text": answer.completion.text}, [*headers.of_answer(answer), level]
        )

    return routes
