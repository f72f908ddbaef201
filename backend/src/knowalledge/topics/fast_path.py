"""Requests whose answer is in this worker's memory, served before the framework."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from knowalledge.caching.domain import Key
from knowalledge.topics.domain import TopicQuery
from knowalledge.topics.service import TopicDocument, Topics
from knowalledge.web import request_identity as identity
from knowalledge.web.context import WebContext
from knowalledge.web.trace import TRACE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# How long a cache may serve what has just expired while it fetches it anew.
REVALIDATE_S = 60
# Behind a fallback a CDN tries again soon, yet not for every reader.
_RETRY_S = 10


class Memo(Protocol):
    """A bounded mapping."""

    def get(self, key: str) -> "ParsedUrl | None": ...

    def put(self, key: str, value: "ParsedUrl", size: int) -> bool: ...


class ParsedUrl(Struct, frozen=True):
    """An address that was understood before."""

    rule: str  # the route, for metrics
    asked: TopicQuery
    key: Key
    headers: tuple[tuple[str, str], ...]


class Policy(Struct, frozen=True):
    """For how many seconds, and to whom, answers may be cached outside. ``public``: anybody may read them."""

    browser_s: int
    cdn_s: int
    stale_s: int
    public: bool = True
    shared: bool = False  # whether there is a Redis layer, for Cache-Status

    def headers(self, tags: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Of a fresh answer. They name the same times however old it is: each layer adds its own."""
        windows = f"stale-while-revalidate={REVALIDATE_S}, stale-if-error={self.stale_s}"
        if not self.public:
            return (
                ("Cache-Control", f"private, max-age={self.browser_s}, {windows}"),
                ("Vary", "Accept-Encoding, Authorization"),
            )
        return (
            ("Cache-Control", f"public, max-age={self.browser_s}, {windows}"),
            ("CDN-Cache-Control", f"public, max-age={self.cdn_s}, {windows}"),
            ("Vary", "Accept-Encoding"),
            *_tags(tags),
        )

    def fallback(self, tags: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Of an answer that is second best: hold it as shortly as possible."""
        if not self.public:
            return (("Cache-Control", "private, no-cache"), ("Vary", "Accept-Encoding, Authorization"))
        return (
            ("Cache-Control", "public, max-age=0, must-revalidate"),
            ("CDN-Cache-Control", f"public, max-age={_RETRY_S}"),
            ("Vary", "Accept-Encoding"),
            *_tags(tags),
        )


def _tags(tags: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Cloudflare's name for them, and Fastly's; our Varnish configuration reads the latter."""
    names = ["all" if tag == "*" else tag for tag in tags]
    return (("Cache-Tag", ",".join(names)), ("Surrogate-Key", " ".join(names)))


def cache_status_header(document: TopicDocument, shared: bool) -> str:
    """Cache-Status (RFC 9211): every layer that was asked, the nearest to the origin first."""
    info = document.cache
    memory, redis = "knowalledge-memory", "knowalledge-redis"
    if info.status == "hit":
        hit = f"; hit; ttl={int(document.left_s)}"
        return f"{memory}{hit}" if info.layer == "memory" else f"{redis}{hit}, {memory}; fwd=miss; stored"
    if info.status == "stale":
        hit = "; hit; detail=stale"
        found = redis if info.layer == "redis" else memory
        return f"{found}{hit}"
    end = "; collapsed" if info.status == "shared" else "; stored" if not document.degraded else ""
    return f"{redis}; fwd=miss{end}, {memory}; fwd=miss{end}" if shared else f"{memory}; fwd=miss{end}"


def matches(field: str, etag: str) -> bool:
    """If-None-Match (RFC 9110): weak comparison with any of a list, or ``*``."""
    if field == etag or field.strip() == "*":
        return True
    return any(it.strip().removeprefix("W/") == etag for it in field.split(","))


def _address(environ: "WSGIEnvironment") -> str:
    # The path is decoded and may hold anything, also a question mark; the query is not, and holds no space.
    return f"{environ.get('QUERY_STRING', '')} {environ['PATH_INFO']}"


class FastPath:
    """The short way, as WSGI middleware: what it does not know, or may not answer, goes on to the application.

    Only where answers are public: it does not ask who calls. Requests of other origins, and traced ones, go the long
    way too, where their headers are looked at.
    """

    def __init__(
        self, inner: "WSGIApplication", web: WebContext, topics: Topics, policy: Policy, memo: Memo
    ) -> None:
        self._inner, self._web, self._topics, self._policy, self._memo = inner, web, topics, policy, memo

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if (
            self._policy.public
            and environ["REQUEST_METHOD"] == "GET"
            and environ["PATH_INFO"].startswith("/api/v1/topics/")
            and "HTTP_ORIGIN" not in environ
            and "HTTP_TRACEPARENT" not in environ
            and TRACE not in environ
        ):
            known = self._memo.get(_address(environ))
            document = self._topics.near(known.key) if known else None
            if known and document:
                return self._answered(environ, start, known, document)
        return self._inner(environ, start)

    def _answered(
        self, environ: "WSGIEnvironment", start: "StartResponse", known: ParsedUrl, document: TopicDocument
    ) -> Iterable[bytes]:
        self._topics.noted(known.asked)
        headers = [
            *known.headers,
            ("ETag", document.etag),
            ("Cache-Status", cache_status_header(document, self._policy.shared)),
            ("X-Request-ID", identity.request_id(environ, self._web.new_id)),
        ]
        wanted = environ.get("HTTP_IF_NONE_MATCH")
        if wanted is not None and matches(wanted, document.etag):
            self._topics.confirmed()
            self._web.observer.http(known.rule, 304)
            start("304 NOT MODIFIED", headers)
            return ()
        self._web.observer.http(known.rule, 200)
        headers += (("Content-Type", "application/json"), ("Content-Length", str(len(document.body))))
        start("200 OK", headers)
        return (document.body,)
