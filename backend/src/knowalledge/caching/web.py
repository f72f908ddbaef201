"""The caches as operators see them: what they do, and taking answers back."""

from collections.abc import Callable

import msgspec
from flask import Blueprint, Response, request
from msgspec import Struct

from knowalledge.caching.invalidation import InvalidationResult
from knowalledge.core.errors import InvalidRequest
from knowalledge.web.bodies import decode
from knowalledge.web.context import WebContext
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


class Saved(Struct, frozen=True):
    """Tokens that were not spent, and their price in USD where prices are set."""

    input_tokens: int
    output_tokens: int
    usd: float | None


class LayerStats(Struct, frozen=True):
    """What one layer did since the start, over all workers of this replica, and what it holds now.

    A hit of ``browser`` is a 304; ``redis`` holds what all replicas share; ``flight`` tells of answers that came from
    another request's run, and of stale ones that served for want of a fresh one. ``saved`` is null for ``browser``:
    a 304 saves the way, and its tokens are told of the layer that knew the answer to be the same.
    """

    hits: int = 0
    misses: int = 0
    stale: int = 0
    shared: int = 0
    entries: int = 0
    bytes: int = 0
    evictions: int = 0
    unreadable: int = 0  # entries that were corrupt or of another version
    up: bool = True
    saved: Saved | None = None


class CacheStats(Struct, frozen=True):
    """The caches of this replica. ``saved`` is the sum over the layers; ``popular`` are the questions kept warm."""

    hits: int
    misses: int
    hit_rate: float
    shared: int
    stale: int
    layers: dict[str, LayerStats]
    saved: Saved
    popular: tuple[str, ...]


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
        body: InvalidateBody = decode(_decoder, web.read_body(request))
        given = [it for it in (body.pattern, body.tag, body.key) if it is not None]
        if len(given) != 1:
            raise InvalidRequest("give one of pattern, tag or key", param="pattern")
        if body.pattern is None and set("*?[") & set(given[0]) and given[0] != "*":
            raise InvalidRequest("a tag or key holds no wildcard; give a pattern", param="tag")
        found = invalidate(given[0], web.principal(request).tenant, web.request_id(request))
        return json_response(Invalidated(found.removed, found.cdn), web.headers(request))

    return routes
