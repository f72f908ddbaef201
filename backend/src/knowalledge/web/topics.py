"""The knowledge API: what a learning page reads by XHR. Every GET is cacheable by browsers and CDNs.

A request whose answer is fresh in this worker's memory takes a short way, before the framework: the address has been
understood before, the headers are ready, and with a matching If-None-Match there is no body either.
"""

from collections.abc import Callable, Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Protocol

from flask import Blueprint, Request, Response, request
from msgspec import Struct
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.routing import BaseConverter

from knowalledge.domain import images
from knowalledge.domain.caching import Key
from knowalledge.domain.errors import InvalidRequest, PayloadTooLarge
from knowalledge.domain.images import Image
from knowalledge.domain.topics import Query, View, query
from knowalledge.service.topics import Asker, Document, Topics
from knowalledge.web import auth
from knowalledge.web.edge import Edge
from knowalledge.web.headers import Headers
from knowalledge.web.tracing import TRACE, trace_of

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIApplication, WSGIEnvironment

# A picture in a form: the picture, and little else around it.
_FORM_ROOM = 64 * 1024
# How long a cache may serve what has just expired while it fetches it anew.
REVALIDATE_S = 60
# Behind a fallback a CDN tries again soon, yet not for every reader.
_RETRY_S = 10


class Memo(Protocol):
    """A bounded mapping."""

    def get(self, key: str) -> "Known | None": ...

    def put(self, key: str, value: "Known", size: int) -> bool: ...


class TopicConverter(BaseConverter):
    """A topic in an address: whatever it is called, slashes and line ends included; ``normal`` judges it."""

    regex = r"[\s\S]+?"
    part_isolating = False


class Known(Struct, frozen=True):
    """An address that was understood before."""

    rule: str  # the route, for metrics
    asked: Query
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


def story(document: Document, shared: bool) -> str:
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


def blueprint(edge: Edge, topics: Topics, policy: Policy, memo: Memo, timeout_s: float) -> Blueprint:
    """The routes of the knowledge API."""
    routes = Blueprint("topics", __name__)
    routes.record(lambda setup: setup.app.url_map.converters.update(topic=TopicConverter))

    def known(view: View, topic: str) -> Known:
        environ = request.environ
        address = _address(environ)
        found = memo.get(address)
        if found is None:
            asked = query(view, topic, given(request))
            key = topics.key(asked)
            rule = request.url_rule
            found = Known(rule.rule if rule else "", asked, key, policy.headers(key.tags))
            if len(address) < 2000:
                memo.put(address, found, 4 * len(address) + 2000)
        return found

    def asker() -> Asker:
        return Asker(
            auth.request_id(request, edge.new_id),
            edge.principal(request),
            auth.priority(request, None, edge.anonymous),
            timeout_s,
            trace_of(request.environ),
        )

    def answer(view: View, topic: str) -> Response:
        found = known(view, topic)
        # A traced request takes the long way, on which each step is told.
        document = None if trace_of(request.environ).live else topics.near(found.key)
        if document is None:
            document = topics.get(found.asked, asker())
        else:
            topics.noted(found.asked)
        fixed = policy.fallback(document.tags) if document.degraded else found.headers
        headers: Headers = [
            *fixed,
            ("ETag", document.etag),
            ("Cache-Status", story(document, policy.shared)),
            ("X-Request-ID", auth.request_id(request, edge.new_id)),
        ]
        if document.degraded:
            headers += [("Age", str(document.cache.age_s)), ("X-Degraded", "true")]
        wanted = request.environ.get("HTTP_IF_NONE_MATCH")
        if wanted is not None and matches(wanted, document.etag):
            topics.confirmed()
            return Response(None, 304, headers)
        return Response(document.body, 200, headers, content_type="application/json")

    def route(view: View) -> Callable[[str], Response]:
        def serve(topic: str) -> Response:
            return answer(view, topic)

        serve.__name__ = view
        return serve

    for view in ("subtopics", "explanations", "quiz", "related"):
        routes.get(f"/api/v1/topics/<topic:topic>/{view}")(route(view))
    routes.get("/api/v1/topics/<topic:topic>")(route("whole"))

    @routes.post("/api/v1/topics/from-image")
    def from_image() -> Response:
        lang = query("related", "image", given(request)).lang
        document = topics.see(picture(request), lang, asker())
        headers: Headers = [
            ("Cache-Control", "no-store"),
            ("Cache-Status", story(document, policy.shared)),
            ("X-Request-ID", auth.request_id(request, edge.new_id)),
        ]
        return Response(document.body, 200, headers, content_type="application/json")

    return routes


def _address(environ: "WSGIEnvironment") -> str:
    # The path is decoded and may hold anything, also a question mark; the query is not, and holds no space.
    return f"{environ.get('QUERY_STRING', '')} {environ['PATH_INFO']}"


class Short:
    """The short way, as WSGI middleware: what it does not know, or may not answer, goes on to the application.

    Only where answers are public: it does not ask who calls. Requests of other origins, and traced ones, go the long
    way too, where their headers are looked at.
    """

    def __init__(
        self, inner: "WSGIApplication", edge: Edge, topics: Topics, policy: Policy, memo: Memo
    ) -> None:
        self._inner, self._edge, self._topics, self._policy, self._memo = inner, edge, topics, policy, memo

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
        self, environ: "WSGIEnvironment", start: "StartResponse", known: Known, document: Document
    ) -> Iterable[bytes]:
        self._topics.noted(known.asked)
        headers = [
            *known.headers,
            ("ETag", document.etag),
            ("Cache-Status", story(document, self._policy.shared)),
            ("X-Request-ID", auth.id_of(environ, self._edge.new_id)),
        ]
        wanted = environ.get("HTTP_IF_NONE_MATCH")
        if wanted is not None and matches(wanted, document.etag):
            self._topics.confirmed()
            self._edge.observer.http(known.rule, 304)
            start("304 NOT MODIFIED", headers)
            return ()
        self._edge.observer.http(known.rule, 200)
        headers += (("Content-Type", "application/json"), ("Content-Length", str(len(document.body))))
        start("200 OK", headers)
        return (document.body,)


def given(asking: Request) -> dict[str, str]:
    """The query's parameters; one that comes twice is refused, since caches would not agree on which counts."""
    found = asking.args.to_dict(flat=False)
    for name, values in found.items():
        if len(values) > 1:
            raise InvalidRequest("a parameter comes twice", param=name[:40])
    return {name: values[0] for name, values in found.items()}


def picture(asking: Request) -> Image:
    """The image of a request: the body itself, or the form's file ``image``. What it is, its bytes say."""
    if asking.mimetype == "multipart/form-data":
        parser = FormDataParser(
            stream_factory=_in_memory,
            max_content_length=images.MAX_BYTES + _FORM_ROOM,
            max_form_memory_size=_FORM_ROOM,
            max_form_parts=8,
        )
        try:
            found = parser.parse_from_environ(asking.environ)[2].get("image")
        except RequestEntityTooLarge as error:
            raise PayloadTooLarge(f"the image is larger than {images.MAX_BYTES} bytes") from error
        if found is None:
            raise InvalidRequest("the form has no file named image", param="image")
        return images.recognise(found.stream.read())
    if (asking.content_length or 0) > images.MAX_BYTES:
        raise PayloadTooLarge(f"the image is larger than {images.MAX_BYTES} bytes", param="image")
    return images.recognise(asking.stream.read(images.MAX_BYTES + 1))


def _in_memory(*_: object, **__: object) -> BytesIO:
    """Bounded by the parser, so nothing needs to be spooled to a disk that may be read-only."""
    return BytesIO()
