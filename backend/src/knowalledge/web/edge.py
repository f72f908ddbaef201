"""What every blueprint shares: the gateway, the request's identity, and how an answer or a failure goes out."""

from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
from flask import Request, Response
from msgspec import Struct

from knowalledge.domain.errors import InvalidRequest, PayloadTooLarge
from knowalledge.domain.model import Event, Principal
from knowalledge.domain.model import Request as Question
from knowalledge.service.complete import Completer
from knowalledge.web import errors, sse


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

    def stream(
        self,
        question: Question,
        render: Callable[[Event], bytes],
        failed: Callable[[BaseException], bytes],
        headers: Sequence[tuple[str, str]],
    ) -> Response:
        """The answer as server-sent events. Until the first event there is still a status to fail with."""
        events = self.completer.stream(question)
        body = sse.stream(next(events), events, render, failed, self.heartbeat_s)
        response = Response(body, 200, content_type="text/event-stream; charset=utf-8")
        response.headers.extend([*headers, ("Cache-Control", "no-store"), ("X-Accel-Buffering", "no")])
        response.headers["X-Request-ID"] = question.id
        return response


_encode = msgspec.json.Encoder().encode


def event(name: str, data: object) -> bytes:
    """One server-sent event."""
    return b"event: " + name.encode() + b"\ndata: " + _encode(data) + b"\n\n"


def json_response(body: object, headers: Sequence[tuple[str, str]], status: int = 200) -> Response:
    response = Response(_encode(body), status, content_type="application/json")
    response.headers.extend(headers)
    return response


def problem_event(error: BaseException, request_id: str) -> bytes:
    """A failure after the first byte."""
    return event("error", errors.problem(error, request_id))
