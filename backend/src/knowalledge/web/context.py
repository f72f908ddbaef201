"""What every blueprint needs to read a request and to begin its response."""

from collections.abc import Callable

from flask import Request
from msgspec import Struct

from knowalledge.core.context import PRINCIPAL, Principal, RequestContext
from knowalledge.web import request_identity as identity
from knowalledge.web.bodies import read_body
from knowalledge.web.headers import Headers
from knowalledge.web.responses import Observer
from knowalledge.web.trace import trace_of

# Where a request keeps that a capability records its end, with a line in the log.
RECORDED = "knowalledge.recorded"


class WebContext(Struct, frozen=True):
    """Limits on requests, the identity of callers, and the process' clock and ids. One per process."""

    observer: Observer
    new_id: Callable[[], str]
    now: Callable[[], float]  # seconds since the epoch
    anonymous: Principal  # the caller, where requests are not authenticated
    tenant_header: str  # in WSGI's spelling; empty: no proxy names tenants
    max_body: int  # bytes
    max_timeout_s: float  # the longest deadline that a caller may ask for

    def read_body(self, request: Request) -> bytes:
        """The request's body. Raises ``PayloadTooLarge`` and ``InvalidRequest``."""
        return read_body(request, self.max_body)

    def request_id(self, request: Request) -> str:
        """The caller's id if it is safe to repeat, else a new one; the same for the whole request."""
        return identity.request_id(request.environ, self.new_id)

    def principal(self, request: Request) -> Principal:
        """Who calls: whoever has been authenticated, else anonymous in the tenant that a trusted proxy named.

        Raises ``InvalidRequest``.
        """
        known: Principal | None = request.environ.get(PRINCIPAL)
        if known is not None:
            return known
        if not self.tenant_header:
            return self.anonymous
        return identity.tenant(request.environ.get(self.tenant_header), self.anonymous)

    def request_context(
        self, request: Request, *, priority: str | None = None, timeout_s: float | None = None
    ) -> RequestContext:
        """Who calls, how urgently, and for how long. Headers count where the body gives no value.

        Raises ``InvalidRequest`` for an unknown priority or tenant.
        """
        environ = request.environ
        if timeout_s is None:
            timeout_s = identity.server_timeout(environ.get("HTTP_X_SERVER_TIMEOUT"))
        if timeout_s is not None:
            timeout_s = min(timeout_s, self.max_timeout_s)
        return RequestContext(
            self.request_id(request),
            self.principal(request),
            identity.priority(environ, priority),
            timeout_s,
            trace_of(environ),
        )

    def headers(self, request: Request) -> Headers:
        """The headers of every response that must not be stored."""
        return [("X-Request-ID", self.request_id(request)), ("Cache-Control", "no-store")]
