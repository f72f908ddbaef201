"""The topic API, which a learning page reads by XHR. Every GET is cacheable by browsers and CDNs.

Documents that are fresh in this worker's memory are served by ``fast_path``, before the framework.
"""

from collections.abc import Callable
from io import BytesIO

from flask import Blueprint, Request, Response, request
from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.formparser import FormDataParser
from werkzeug.routing import BaseConverter

from knowalledge.core.context import RequestContext
from knowalledge.core.errors import Forbidden, InvalidRequest, PayloadTooLarge
from knowalledge.topics import images
from knowalledge.topics.domain import View, parse_query
from knowalledge.topics.fast_path import Memo, ParsedUrl, Policy, cache_status_header, matches, memo_key
from knowalledge.topics.images import Image
from knowalledge.topics.service import Topics
from knowalledge.web import request_identity as identity
from knowalledge.web.context import WebContext
from knowalledge.web.headers import Headers
from knowalledge.web.trace import trace_of

# Bytes of a multipart form around its image.
_FORM_OVERHEAD = 64 * 1024


class TopicConverter(BaseConverter):
    """A topic in a path: any characters, slashes and line ends included; ``normalize_topic`` validates it."""

    regex = r"[\s\S]+?"
    part_isolating = False


def blueprint(web: WebContext, topics: Topics, policy: Policy, memo: Memo, timeout_s: float) -> Blueprint:
    """The routes of the topic API. ``timeout_s``: the deadline of a request."""
    routes = Blueprint("topics", __name__)
    routes.record(lambda setup: setup.app.url_map.converters.update(topic=TopicConverter))

    def answer(view: View, topic: str) -> Response:
        _check_model(web, topics)
        url = _parsed_url(topics, policy, memo, view, topic)
        # A traced request skips the memo, so that each step is recorded.
        document = None if trace_of(request.environ).live else topics.get_local(url.key)
        if document is None:
            document = topics.get(url.query, _context(web, timeout_s))
        else:
            topics.record_query(url.query)
        caching = policy.fallback_headers(document.tags) if document.degraded else url.headers
        headers: Headers = [
            *caching,
            ("ETag", document.etag),
            ("Cache-Status", cache_status_header(document, policy.shared)),
            ("X-Request-ID", web.request_id(request)),
        ]
        if document.degraded:
            headers += [("Age", str(document.cache.age_s)), ("X-Degraded", "true")]
        if_none_match = request.environ.get("HTTP_IF_NONE_MATCH")
        if if_none_match is not None and matches(if_none_match, document.etag):
            topics.record_not_modified()
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
        _check_model(web, topics)
        lang = parse_query("related", "image", parameters(request)).lang
        document = topics.describe(image_of(request), lang, _context(web, timeout_s))
        headers: Headers = [
            ("Cache-Control", "no-store"),
            ("Cache-Status", cache_status_header(document, policy.shared)),
            ("X-Request-ID", web.request_id(request)),
        ]
        return Response(document.body, 200, headers, content_type="application/json")

    return routes


def _check_model(web: WebContext, topics: Topics) -> None:
    if not web.principal(request).may_use(topics.model):
        raise Forbidden("this key may not use the model that answers about topics")


def _context(web: WebContext, timeout_s: float) -> RequestContext:
    return RequestContext(
        web.request_id(request),
        web.principal(request),
        identity.priority(request.environ, None),
        timeout_s,
        trace_of(request.environ),
    )


def _parsed_url(topics: Topics, policy: Policy, memo: Memo, view: View, topic: str) -> ParsedUrl:
    """The current request's URL, from the memo if it was parsed before."""
    url = memo_key(request.environ)
    parsed = memo.get(url)
    if parsed is None:
        query = parse_query(view, topic, parameters(request))
        key = topics.key(query)
        rule = request.url_rule
        parsed = ParsedUrl(rule.rule if rule else "", query, key, policy.headers(key.tags))
        if len(url) < 2000:
            memo.put(url, parsed, 4 * len(url) + 2000)
    return parsed


def parameters(request: Request) -> dict[str, str]:
    """The query string's parameters. A repeated one is refused: caches do not agree on which value counts."""
    repeated = request.args.to_dict(flat=False)
    for name, values in repeated.items():
        if len(values) > 1:
            raise InvalidRequest("a parameter comes twice", param=name[:40])
    return {name: values[0] for name, values in repeated.items()}


def image_of(request: Request) -> Image:
    """The image of a request: the body itself, or the form's file ``image``. Its type is read from its bytes."""
    if request.mimetype == "multipart/form-data":
        parser = FormDataParser(
            stream_factory=_in_memory,
            max_content_length=images.MAX_BYTES + _FORM_OVERHEAD,
            max_form_memory_size=_FORM_OVERHEAD,
            max_form_parts=8,
        )
        try:
            file = parser.parse_from_environ(request.environ)[2].get("image")
        except RequestEntityTooLarge as error:
            raise PayloadTooLarge(f"the image is larger than {images.MAX_BYTES} bytes") from error
        if file is None:
            raise InvalidRequest("the form has no file named image", param="image")
        return images.recognise(file.stream.read())
    if (request.content_length or 0) > images.MAX_BYTES:
        raise PayloadTooLarge(f"the image is larger than {images.MAX_BYTES} bytes", param="image")
    return images.recognise(request.stream.read(images.MAX_BYTES + 1))


def _in_memory(*_: object, **__: object) -> BytesIO:
    """The parser bounds its size, so nothing is spooled to a disk, which may be read-only."""
    return BytesIO()
