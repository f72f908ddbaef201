"""The knowledge API: what a learning page reads by XHR. Every GET is cacheable by browsers and CDNs.

A request whose answer is fresh in this worker's memory takes a short way, before the framework: the address has been
understood before, the headers are ready, and with a matching If-None-Match there is no body either.
"""

from collections.abc import Callable
from io import BytesIO

from flask import Blueprint, Request, Response, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.routing import BaseConverter

from knowalledge.core.context import RequestContext
from knowalledge.core.errors import InvalidRequest, PayloadTooLarge
from knowalledge.topics import images
from knowalledge.topics.domain import View, query
from knowalledge.topics.fast_path import Memo, ParsedUrl, Policy, _address, cache_status_header, matches
from knowalledge.topics.images import Image
from knowalledge.topics.service import Topics
from knowalledge.web import request_identity as identity
from knowalledge.web.context import WebContext
from knowalledge.web.headers import Headers
from knowalledge.web.trace import trace_of

# A picture in a form: the picture, and little else around it.
_FORM_ROOM = 64 * 1024


class TopicConverter(BaseConverter):
    """A topic in an address: whatever it is called, slashes and line ends included; ``normal`` judges it."""

    regex = r"[\s\S]+?"
    part_isolating = False


def blueprint(web: WebContext, topics: Topics, policy: Policy, memo: Memo, timeout_s: float) -> Blueprint:
    """The routes of the knowledge API."""
    routes = Blueprint("topics", __name__)
    routes.record(lambda setup: setup.app.url_map.converters.update(topic=TopicConverter))

    def known(view: View, topic: str) -> ParsedUrl:
        environ = request.environ
        address = _address(environ)
        found = memo.get(address)
        if found is None:
            asked = query(view, topic, given(request))
            key = topics.key(asked)
            rule = request.url_rule
            found = ParsedUrl(rule.rule if rule else "", asked, key, policy.headers(key.tags))
            if len(address) < 2000:
                memo.put(address, found, 4 * len(address) + 2000)
        return found

    def context() -> RequestContext:
        return RequestContext(
            web.request_id(request),
            web.principal(request),
            identity.priority(request.environ, None),
            timeout_s,
            trace_of(request.environ),
        )

    def answer(view: View, topic: str) -> Response:
        found = known(view, topic)
        # A traced request takes the long way, on which each step is told.
        document = None if trace_of(request.environ).live else topics.near(found.key)
        if document is None:
            document = topics.get(found.asked, context())
        else:
            topics.noted(found.asked)
        fixed = policy.fallback(document.tags) if document.degraded else found.headers
        headers: Headers = [
            *fixed,
            ("ETag", document.etag),
            ("Cache-Status", cache_status_header(document, policy.shared)),
            ("X-Request-ID", web.request_id(request)),
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
        document = topics.see(picture(request), lang, context())
        headers: Headers = [
            ("Cache-Control", "no-store"),
            ("Cache-Status", cache_status_header(document, policy.shared)),
            ("X-Request-ID", web.request_id(request)),
        ]
        return Response(document.body, 200, headers, content_type="application/json")

    return routes


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
