"""The caches as operators see them: what they do, and taking answers back."""

from collections.abc import Callable

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct

from knowalledge.caching.invalidation import InvalidationResult
from knowalledge.caching.stats import CacheStats
from knowalledge.core.errors import InvalidRequest
from knowalledge.web.bodies import decode
from knowalledge.web.context import WebContext
from knowalledge.web.request_identity import require_own_origin
from knowalledge.web.responses import json_response


class InvalidateBody(Struct, forbid_unknown_fields=True):
    """What to take back: a ``pattern`` such as ``topic:*``, a ``tag``, or a ``key`` by its whole name."""

    pattern: str | None = None
    tag: str | None = None
    key: str | None = None


class Invalidated(Struct, frozen=True):
    """What was taken back. ``cdn``: purged, failed (try again), or none where there is none."""

    removed: int
    cdn: str


_decoder = msgspec.json.Decoder(InvalidateBody)


def blueprint(
    web: WebContext,
    stats: Callable[[], CacheStats],
    invalidate: Callable[[str, str, str], InvalidationResult],
) -> Blueprint:
    """The routes about the caches."""
    routes = Blueprint("cache", __name__)

    @routes.get("/api/cache/stats")
    def cache_stats() -> Response:
        return json_response(stats(), web.headers(request))

    @routes.post("/api/cache/invalidate")
    def cache_invalidate() -> Response:
        require_own_origin(request.environ)
        body: InvalidateBody = decode(_decoder, web.read_body(request))
        given = [it for it in (body.pattern, body.tag, body.key) if it is not None]
        if len(given) != 1:
            raise InvalidRequest("give one of pattern, tag or key", param="pattern")
        if body.pattern is None and set("*?[") & set(given[0]) and given[0] != "*":
            raise InvalidRequest("a tag or key holds no wildcard; give a pattern", param="tag")
        invalidated = invalidate(given[0], web.principal(request).tenant, web.request_id(request))
        return json_response(Invalidated(invalidated.removed, invalidated.cdn), web.headers(request))

    return routes
