"""Topic requests whose document is fresh in this worker's memory, served before the framework.

The URL has been parsed before, its headers are ready, and a matching ``If-None-Match`` needs no body.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from knowalledge.caching.domain import Key
from knowalledge.core.context import PRINCIPAL, Principal
from knowalledge.topics.domain import TopicQuery
from knowalledge.topics.service import TopicDocument, Topics
from knowalledge.web import request_identity as identity
from knowalledge.web.context import WebContext
from knowalledge.web.trace import TRACE

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# Seconds for which a cache may serve an expired document while it revalidates (RFC 5861).
REVALIDATE_S = 60
# Seconds for which a CDN holds a fallback: it retries soon, but not for every reader.
_RETRY_S = 10


class Memo(Protocol):
    """A bounded mapping."""

    def get(self, key: str) -> "ParsedUrl | None": ...

    def put(self, key: str, value: "ParsedUrl", size: int) -> bool: ...


class ParsedUrl(Struct, frozen=True):
    """A URL that was parsed before."""

    rule: str  # the route, for metrics
    query: TopicQuery
    key: Key
    headers: tuple[tuple[str, str], ...]


class Policy(Struct, frozen=True):
    """How long, in seconds, and by whom documents may be cached outside. ``public``: the same for every caller."""

    browser_s: int
    cdn_s: int
    stale_s: int
    public: bool = True
    shared: bool = False  # there is a Redis layer, for Cache-Status

    def headers(self, tags: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Of a fresh document. The lifetimes do not depend on its age: each cache adds its own."""
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

    def fallback_headers(self, tags: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Of a degraded document, to be held as briefly as possible."""
        if not self.public:
            return (("Cache-Control", "private, no-cache"), ("Vary", "Accept-Encoding, Authorization"))
        return (
            ("Cache-Control", "public, max-age=0, must-revalidate"),
            ("CDN-Cache-Control", f"public, max-age={_RETRY_S}"),
            ("Vary", "Accept-Encoding"),
            *_tags(tags),
        )


def _tags(tags: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
    """Cloudflare reads ``Cache-Tag``; Fastly and our Varnish read ``Surrogate-Key``."""
    names = ["all" if tag == "*" else tag for tag in tags]
    return (("Cache-Tag", ",".join(names)), ("Surrogate-Key", " ".join(names)))


def cache_status_header(document: TopicDocument, shared: bool) -> str:
    """Cache-Status (RFC 9211): every layer that was consulted, the one nearest to the origin first."""
    info = document.cache
    memory, redis = "knowalledge-memory", "knowalledge-redis"
    if info.status == "hit":
        hit = f"; hit; ttl={int(document.fresh_for_s)}"
        return f"{memory}{hit}" if info.layer == "memory" else f"{redis}{hit}, {memory}; fwd=miss; stored"
    if info.status == "stale":
        hit = "; hit; detail=stale"
        return f"{redis if info.layer == 'redis' else memory}{hit}"
    end = "; collapsed" if info.status == "shared" else "; stored" if not document.degraded else ""
    return f"{redis}; fwd=miss{end}, {memory}; fwd=miss{end}" if shared else f"{memory}; fwd=miss{end}"


def matches(field: str, etag: str) -> bool:
    """Whether ``If-None-Match`` (RFC 9110) names this ETag: weak comparison with each of a list, or ``*``."""
    if field == etag or field.strip() == "*":
        return True
    return any(it.strip().removeprefix("W/") == etag for it in field.split(","))


def memo_key(environ: "WSGIEnvironment") -> str:
    """The key of a URL in the memo."""
    # The path is decoded and may hold any character, ``?`` too; the query string is encoded and holds no space.
    return f"{environ.get('QUERY_STRING', '')} {environ['PATH_INFO']}"


def _may_read(environ: "WSGIEnvironment") -> bool:
    caller: Principal | None = environ.get(PRINCIPAL)
    return caller is not None and not caller.models


class FastPath:
    """WSGI middleware; a request that it cannot serve continues to the application.

    It serves only where documents are public, or a caller who has been authenticated and may use every model.
    Cross-origin and traced requests continue too: their headers matter.
    """

    def __init__(
        self, inner: "WSGIApplication", web: WebContext, topics: Topics, policy: Policy, memo: Memo
    ) -> None:
        self._inner, self._web, self._topics, self._policy, self._memo = inner, web, topics, policy, memo

    def __call__(self, environ: "WSGIEnvironment", start: "StartResponse") -> Iterable[bytes]:
        if (
            (self._policy.public or _may_read(environ))
            and environ["REQUEST_METHOD"] == "GET"
            and environ["PATH_INFO"].startswith("/api/v1/topics/")
            and "HTTP_ORIGIN" not in environ
            and "HTTP_TRACEPARENT" not in environ
            and TRACE not in environ
        ):
            url = self._memo.get(memo_key(environ))
            document = self._topics.get_local(url.key) if url else None
            if url and document:
                return self._serve(environ, start, url, document)
        return self._inner(environ, start)

    def _serve(
        self, environ: "WSGIEnvironment", start: "StartResponse", url: ParsedUrl, document: TopicDocument
    ) -> Iterable[bytes]:
        self._topics.record_query(url.query)
        headers = [
            *url.headers,
            ("ETag", document.etag),
            ("Cache-Status", cache_status_header(document, self._policy.shared)),
            ("X-Request-ID", identity.request_id(environ, self._web.new_id)),
        ]
        if_none_match = environ.get("HTTP_IF_NONE_MATCH")
        if if_none_match is not None and matches(if_none_match, document.etag):
            self._topics.record_not_modified()
            self._web.observer.http(url.rule, 304)
            start("304 NOT MODIFIED", headers)
            return ()
        self._web.observer.http(url.rule, 200)
        headers += (("Content-Type", "application/json"), ("Content-Length", str(len(document.body))))
        start("200 OK", headers)
        return (document.body,)
