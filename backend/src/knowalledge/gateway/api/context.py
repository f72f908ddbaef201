"""What every blueprint shares: the gateway, the request's identity, and how an answer or a failure goes out."""

import re
from collections.abc import Callable

from flask import Request, Response
from msgspec import Struct

from knowalledge.core.context import Principal, Priority, RequestContext
from knowalledge.core.errors import InvalidRequest, PayloadTooLarge
from knowalledge.gateway.api import stream as sse
from knowalledge.gateway.api.headers import cached, chosen
from knowalledge.gateway.api.stream import Renderer
from knowalledge.gateway.domain.answer import Answer, Embeddings, Usage
from knowalledge.gateway.domain.events import Started
from knowalledge.gateway.domain.outcomes import outcome_of
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.domain.request import CacheMode
from knowalledge.gateway.domain.request import Request as Question
from knowalledge.gateway.ports import Gateway, Record, Telemetry
from knowalledge.net.presence import while_present
from knowalledge.web import request_identity as auth
from knowalledge.web.headers import Headers, rate_limit
from knowalledge.web.problems import code_of
from knowalledge.web.responses import Observer, Ready
from knowalledge.web.trace import trace_of

# Where a request keeps that the service has been asked, and so tells of its end.
_ASKED = "knowalledge.asked"
_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,3})?")


class WebContext(Struct, frozen=True):
    """Everything that the web layer works with."""

    completer: Gateway
    observer: Observer
    telemetry: Telemetry
    new_id: Callable[[], str]
    now: Callable[[], float]
    anonymous: Principal
    tenant_header: str  # as WSGI names it; empty: nobody names tenants
    max_body: int
    heartbeat_s: float
    max_timeout_s: float

    def body(self, request: Request) -> bytes:
        """The request's body, bounded."""
        length = request.environ.get("CONTENT_LENGTH") or ""
        try:
            if length.isdecimal():
                if int(length) > self.max_body:
                    raise self._too_large()
                body: bytes = request.environ["wsgi.input"].read(int(length))
            else:  # in chunks, or absent: the framework knows which
                body = request.stream.read(self.max_body + 1)
                if len(body) > self.max_body:
                    raise self._too_large()
        except OSError as error:
            raise InvalidRequest("the body ended early, or its chunks are malformed") from error
        try:
            body.decode()
        except UnicodeDecodeError as error:
            raise InvalidRequest("the body is not UTF-8") from error
        return body

    def _too_large(self) -> PayloadTooLarge:
        return PayloadTooLarge(f"the body is larger than {self.max_body} bytes")

    def principal(self, request: Request) -> Principal:
        """Who asks: anonymous, in the tenant that a trusted front has named."""
        if not self.tenant_header:
            return self.anonymous
        return auth.tenant(request.environ.get(self.tenant_header), self.anonymous)

    def request_context(
        self, request: Request, *, priority: str | None = None, timeout_s: float | None = None
    ) -> RequestContext:
        """Who asks, how urgently, and for how long; headers count where the body says nothing."""
        environ = request.environ
        if timeout_s is None:
            timeout_s = self._server_timeout(environ.get("HTTP_X_SERVER_TIMEOUT"))
        else:
            timeout_s = min(timeout_s, self.max_timeout_s)
        return RequestContext(
            auth.request_id(request, self.new_id),
            self.principal(request),
            auth.priority(request, priority),
            timeout_s,
            trace_of(environ),
        )

    def question(
        self, request: Request, model: str, prompt: Prompt, *, cache: CacheMode | None = None
    ) -> Question:
        """What is asked; Cache-Control counts where the body says nothing of the cache."""
        environ = request.environ
        field = environ.get("HTTP_CACHE_CONTROL")
        environ[_ASKED] = True
        return Question(model, prompt, cache_mode(field) if cache is None else cache, max_age(field))

    def _server_timeout(self, field: str | None) -> float | None:
        """X-Server-Timeout, which Google's SDKs send: seconds; one that makes no sense is as if it were not there."""
        if field is None or not _SECONDS.fullmatch(field) or not float(field):
            return None
        return min(float(field), self.max_timeout_s)

    def embed(
        self, request: Request, model: str, texts: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, Headers]:
        """Vectors, and the headers that go with them."""
        context = RequestContext(
            auth.request_id(request, self.new_id),
            self.principal(request),
            trace=trace_of(request.environ),
        )
        request.environ[_ASKED] = True
        with while_present(request.environ):
            found, target = self.completer.embed(context, model, texts, dimensions)
        return found, [*self.head(request), ("X-Target", target)]

    def count(self, request: Request, context: RequestContext, question: Question) -> int:
        """The tokens of a prompt. The service tells of no such request, so a failure is told of here."""
        request.environ[_ASKED] = False
        with while_present(request.environ):
            return self.completer.count_tokens(context, question)

    def head(self, request: Request) -> Headers:
        """The headers of an answer that no model gave."""
        return [("X-Request-ID", auth.request_id(request, self.new_id)), ("Cache-Control", "no-store")]

    def refused(self, request: Request, error: BaseException) -> None:
        """Record a request for a model that failed before the gateway had it, which records all others itself."""
        if request.environ.get(_ASKED):
            return
        self.telemetry.request(
            Record(
                request_id=auth.request_id(request, self.new_id),
                model="unknown",
                target="",
                outcome=outcome_of(error),
                priority=Priority.MEDIUM,
                seconds=0.0,
                usage=Usage(),
                error=code_of(error),
                trace=trace_of(request.environ),
            )
        )

    def complete(self, request: Request, context: RequestContext, question: Question) -> Answer:
        """The whole answer, for as long as somebody waits for it."""
        with while_present(request.environ):
            return self.completer.complete(context, question)

    def stream(
        self,
        request: Request,
        context: RequestContext,
        question: Question,
        renderer: Renderer,
        headers: Headers,
    ) -> Response:
        """The answer as it comes. Until it begins there is still a status to fail with."""
        events = self.completer.stream(context, question)
        body = sse.Stream(events, renderer, self.heartbeat_s, request.environ)
        first = body.opening()
        head = [
            ("X-Request-ID", context.request_id),
            ("Cache-Control", "no-store"),
            ("X-Accel-Buffering", "no"),
            *headers,
        ]
        if isinstance(first, Started):
            head += cached(first.cache)
            head += chosen(first.target, first.reason, first.degraded)
            head += rate_limit(first.allowances)
        return Ready(body, 200, head, content_type=renderer.content_type)


def cache_mode(field: str | None) -> CacheMode | None:
    """What a request's Cache-Control asks of our caches (RFC 9111, section 5.2.1); None: nothing."""
    if field is None:
        return None
    directives = _directives(field)
    if "only-if-cached" in directives:
        return CacheMode.ONLY
    if "no-cache" in directives or "no-store" in directives or max_age(field) == 0:
        return CacheMode.BYPASS
    # Whoever says how old or how stale an answer may be takes a stored one.
    return CacheMode.DEFAULT if "max-age" in directives or "max-stale" in directives else None


def max_age(field: str | None) -> float | None:
    """How old a stored answer may be, in seconds, by a request's Cache-Control; None if it does not say."""
    found = _directives(field).get("max-age", "") if field else ""
    return float(found) if _SECONDS.fullmatch(found) else None


def _directives(field: str) -> dict[str, str]:
    parts = (it.strip().partition("=") for it in field.split(","))
    return {name.lower(): value for name, _, value in parts}
