"""A request's trace, from its arrival to its last byte. Without a tracer nothing of this is on any request's way."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from flask import Blueprint, Response, request

from knowalledge.core.trace_context import RequestTrace, Tracer
from knowalledge.web import request_identity as identity

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
from knowalledge.web.trace import TRACE

# Probes and scrapes come for ever, and tell nothing.
_UNTOLD = ("/api/health", "/api/ready", "/api/metrics", "/metrics")


def blueprint(new_id: Callable[[], str]) -> Blueprint:
    """Tells each traced request's trace its route and status."""
    routes = Blueprint("tracing", __name__)

    @routes.after_app_request
    def answered(response: Response) -> Response:
        found: RequestTrace | None = request.environ.get(TRACE)
        if found is not None:
            rule = request.url_rule
            found.answered(
                rule.rule if rule else "", response.status_code, identity.request_id(request.environ, new_id)
            )
        return response

    return routes


class Traced:
    """WSGI middleware: the trace begins with the request and ends when its body is closed."""

    def __init__(self, inner: "WSGIApplication", tracer: Tracer) -> None:
        self._inner, self._tracer = inner, tracer

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(_UNTOLD):
            return self._inner(environ, start)
        found = self._tracer.begin(environ["REQUEST_METHOD"], environ.get("HTTP_TRACEPARENT"))
        if found is None:
            return self._inner(environ, start)
        environ[TRACE] = found
        try:
            body = self._inner(environ, start)
        except BaseException as error:  # a trace that has begun ends, whatever ends its request
            found.ended(type(error).__name__)
            raise
        if isinstance(body, list | tuple):
            found.ended()
            return body
        return _Body(body, found)


class _Body:
    """What is told when it is over."""

    def __init__(self, inner: Iterable[bytes], found: RequestTrace) -> None:
        self._inner, self._found = inner, found

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._inner)

    def close(self) -> None:
        try:
            close = getattr(self._inner, "close", None)
            if close is not None:
                close()
        finally:
            self._found.ended()
