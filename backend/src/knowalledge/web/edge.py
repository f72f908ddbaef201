"""What every blueprint shares: the gateway, the request's identity, and how an answer or a failure goes out."""

from collections.abc import Callable
from typing import Protocol

import msgspec
from flask import Request, Response
from msgspec import Struct

from knowalledge.domain.errors import InvalidRequest, PayloadTooLarge
from knowalledge.domain.model import Principal, Started
from knowalledge.domain.model import Request as Question
from knowalledge.service.complete import Completer
from knowalledge.web import sse
from knowalledge.web.headers import Headers, rate_limit
from knowalledge.web.sse import Renderer


class Observer(Protocol):
    """Told of every HTTP answer."""

    def http(self, route: str, status: int) -> None: ...


class Edge(Struct, frozen=True):
    """Everything that the web layer works with."""

    completer: Completer
    observer: Observer
    new_id: Callable[[], str]
    anonymous: Principal
    max_body: int
    heartbeat_s: float
    max_timeout_s: float

    def body(self, request: Request) -> bytes:
        """The request's body, bounded."""
        length = request.content_length
        if length is not None and length > self.max_body:
            raise PayloadTooLarge(f"the body is larger than {self.max_body} bytes")
        body = request.stream.read(self.max_body + 1)
        if len(body) > self.max_body:
            raise PayloadTooLarge(f"the body is larger than {self.max_body} bytes")
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("the body is not UTF-8") from error
        return body

    def stream(self, question: Question, renderer: Renderer, headers: Headers) -> Response:
        """The answer as it comes. Until the first event there is still a status to fail with."""
        events = self.completer.stream(question)
        first = next(events)
        head = [
            ("X-Request-ID", question.id),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),
            *headers,
        ]
        if isinstance(first, Started):
            head += rate_limit(first.allowances)
        body = sse.stream(first, events, renderer, self.heartbeat_s)
        return Response(body, 200, head, content_type=renderer.content_type)


_encode = msgspec.json.Encoder().encode


def json_response(body: object, headers: Headers, status: int = 200) -> Response:
    """A whole answer."""
    return Response(_encode(body), status, headers, content_type="application/json")
