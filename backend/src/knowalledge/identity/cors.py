"""Which web pages may call from a browser (CORS, https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Seconds for which a browser need not ask again.
MAX_AGE_S = 7200
_METHODS = "GET, POST, DELETE"
# What pages and the SDKs of all dialects send; OpenAI's and Anthropic's send more that begin with x-stainless-.
_HEADERS = frozenset(
    [
        "accept",
        "anthropic-beta",
        "anthropic-dangerous-direct-browser-access",
        "anthropic-version",
        "api-key",
        "authorization",
        "baggage",
        "cache-control",
        "content-type",
        "idempotency-key",
        "if-none-match",
        "last-event-id",
        "openai-beta",
        "openai-organization",
        "openai-project",
        "priority",
        "traceparent",
        "tracestate",
        "user-agent",
        "x-api-key",
        "x-goog-api-client",
        "x-goog-api-key",
        "x-goog-request-params",
        "x-goog-user-project",
        "x-priority",
        "x-request-id",
        "x-server-timeout",
    ]
)
_EXPOSED = (
    "Age, Cache-Status, ETag, RateLimit, RateLimit-Policy, Retry-After, X-Degraded, X-Priority, "
    "X-Request-ID, X-Target"
)


class Cors:
    """WSGI middleware: answers what browsers ask before a request, and lets the pages of ``origins`` read answers.

    ``*`` stands for every origin. No cookie is ever taken, so a page can send only what it knows itself.
    """

    def __init__(self, inner: "WSGIApplication", origins: tuple[str, ...]) -> None:
        self._inner, self._origins = inner, frozenset(origins)

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        origin = environ.get("HTTP_ORIGIN")
        if origin is None:
            return self._inner(environ, start)
        allowed = self._allowed(origin)
        if environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
            asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS", "")
            start("204 NO CONTENT", [*allowed, *self._preflight(asked)] if len(allowed) > 1 else allowed)
            return ()

        def begin(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            return start(status, [*headers, *allowed], exc_info)

        return self._inner(environ, begin)

    def _allowed(self, origin: str) -> list[tuple[str, str]]:
        """Of every answer to a page; to one that may not read it only that the answer depends on the page."""
        if "*" in self._origins:
            origin = "*"
        elif origin not in self._origins:
            return [("Vary", "Origin")]
        return [
            ("Vary", "Origin"),
            ("Access-Control-Allow-Origin", origin),
            ("Access-Control-Expose-Headers", _EXPOSED),
        ]

    @staticmethod
    def _preflight(asked: str) -> list[tuple[str, str]]:
        names = [it.strip().lower() for it in asked.split(",")[:64]]
        known = [it for it in names if it in _HEADERS or _is_stainless(it)]
        return [
            ("Access-Control-Allow-Methods", _METHODS),
            ("Access-Control-Allow-Headers", ", ".join(known)),
            ("Access-Control-Max-Age", str(MAX_AGE_S)),
            ("Content-Length", "0"),
        ]


def _is_stainless(name: str) -> bool:
    return name.startswith("x-stainless-") and name.replace("-", "").isalnum() and name.isascii()
