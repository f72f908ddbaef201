"""The gateway as the dialects' blueprints call it: for as long as the client is connected, recorded once."""

from flask import Request as HttpRequest
from flask import Response
from msgspec import Struct

from knowalledge.core.context import Principal, RequestContext
from knowalledge.core.errors import Forbidden
from knowalledge.gateway.api.cache_control import cache_mode, max_age
from knowalledge.gateway.api.headers import stream_headers
from knowalledge.gateway.api.streaming import StreamedBody, StreamRenderer
from knowalledge.gateway.domain.answer import Answer, Embeddings
from knowalledge.gateway.domain.events import Started
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.domain.request import CacheMode, Request
from knowalledge.gateway.ports import Gateway, Telemetry
from knowalledge.gateway.service.recording import record_of
from knowalledge.net.presence import cancel_on_disconnect
from knowalledge.web.context import RECORDED, WebContext
from knowalledge.web.headers import Headers
from knowalledge.web.responses import CompleteResponse
from knowalledge.web.trace import trace_of


class ApiContext(Struct, frozen=True):
    """What the blueprints of all dialects share. ``http`` is the HTTP request, ``request`` what it asks of a model.

    Each call raises ``ClientGone`` when the client hangs up and ``Forbidden`` for a model that the caller may not use,
    besides what ``Gateway`` raises.
    """

    web: WebContext
    gateway: Gateway
    telemetry: Telemetry
    heartbeat_s: float  # a stream is silent for no longer

    def request(
        self, http: HttpRequest, model: str, prompt: Prompt, cache: CacheMode | None = None
    ) -> Request:
        """The request for the gateway. Cache-Control counts where the body gives no cache mode."""
        field = http.environ.get("HTTP_CACHE_CONTROL")
        return Request(model, prompt, cache_mode(field) if cache is None else cache, max_age(field))

    def complete(self, http: HttpRequest, context: RequestContext, request: Request) -> Answer:
        """One whole answer."""
        self._check(context.principal, request.model)
        http.environ[RECORDED] = True
        with cancel_on_disconnect(http.environ):
            return self.gateway.complete(context, request)

    def stream(
        self, http: HttpRequest, context: RequestContext, request: Request, renderer: StreamRenderer
    ) -> Response:
        """The answer as it comes. Raises until it begins: until then a failure still has a status."""
        self._check(context.principal, request.model)
        http.environ[RECORDED] = True
        events = self.gateway.stream(context, request)
        body = StreamedBody(events, renderer, self.heartbeat_s, http.environ)
        first = body.open()
        started = first if isinstance(first, Started) else None
        headers = stream_headers(context.request_id, context.priority, started)
        return CompleteResponse(body, 200, headers, content_type=renderer.content_type)

    def embed(
        self, http: HttpRequest, model: str, texts: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, Headers]:
        """One vector for each text, and the response's headers."""
        web, environ = self.web, http.environ
        context = RequestContext(web.request_id(http), web.principal(http), trace=trace_of(environ))
        self._check(context.principal, model)
        environ[RECORDED] = True
        with cancel_on_disconnect(environ):
            embeddings, target = self.gateway.embed(context, model, texts, dimensions)
        return embeddings, [*web.headers(http), ("X-Target", target)]

    def count_tokens(self, http: HttpRequest, context: RequestContext, request: Request) -> int:
        """The input tokens of a prompt. It is no request to a model, so only its failure is recorded."""
        self._check(context.principal, request.model)
        with cancel_on_disconnect(http.environ):
            return self.gateway.count_tokens(context, request)

    def models(self, http: HttpRequest) -> tuple[str, ...]:
        """The models that the caller may name."""
        return tuple(filter(self.web.principal(http).may_use, self.gateway.models()))

    def model(self, http: HttpRequest, name: str) -> str:
        """A model's own name. Raises ``UnknownModel``."""
        self._check(self.web.principal(http), name)
        return self.gateway.model(name)

    def _check(self, principal: Principal, model: str) -> None:
        if principal.models and not principal.may_use(self.gateway.model(model)):
            raise Forbidden("this key may not use that model", param="model")

    def record_failure(self, http: HttpRequest, error: BaseException) -> None:
        """Record a request to a dialect that failed; the gateway itself records those that it was given."""
        if http.environ.get(RECORDED):
            return
        context = RequestContext(self.web.request_id(http), trace=trace_of(http.environ))
        self.telemetry.record_request(record_of(context, "unknown", 0.0, error=error))
