"""A request's trace, from its arrival to its last byte. Without a tracer nothing of this is on any request's way."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from knowalledge.core.trace_context import RequestTrace, Tracer
from knowalledge.web import request_identity as identity

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment
from knowalledge.web.trace import TRACE

# Probes and scrapes come for ever, and tell nothing.
_UNTOLD = ("/api/health", "/api/ready", "/api/metrics", "/metrics")


class Traced:
    """WSGI middleware: the trace begins with the request and ends when its body is closed."""

    def __init__(self, inner: "WSGIApplication", tracer: Tracer, new_id: Callable[[], str]) -> None:
        self._inner, self._tracer, self._new_id = inner, tracer, new_id

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if environ["PATH_INFO"].startswith(_UNTOLD):
            return self._inner(environ, start)
        trace = self._tracer.begin(environ["REQUEST_METHOD"], environ.get("HTTP_TRACEPARENT"))
        if trace is None:
            return self._inner(environ, start)
        return self._traced(environ, start, trace)

    def _traced(
        self, environ: "WSGIEnvironment", start: "StartResponse", trace: RequestTrace
    ) -> Iterable[bytes]:
        environ[TRACE] = trace

        def answered(status: str, *more: Any) -> Any:
            request = environ.get("werkzeug.request")  # Flask's; none if a middleware has answered
            rule = request and request.url_rule
            request_id = identity.request_id(environ, self._new_id)
            trace.answered(rule.rule if rule else "", int(status[:3]), request_id)
            return start(status, *more)

        try:
            body = self._inner(environ, answered)
        except BaseException as error:  # a trace that has begun ends, whatever ends its request
            trace.ended(type(error).__name__)
            raise
        if isinstance(body, list | tuple):
            trace.ended()
            return body
        return _Body(body, trace)


class _Body:
    """A body whose end ends the trace."""

    def __init__(self, inner: Iterable[bytes], trace: RequestTrace) -> None:
        self._inner, self._trace = inner, trace

    def __iter__(self) -> Iterator[bytes]:
        return iter(self._inner)

    def close(self) -> None:
        try:
            close = getattr(self._inner, "close", None)
            if close is not None:
                close()
        finally:
            self._trace.ended()
