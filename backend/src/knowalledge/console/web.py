"""The routes of the pages. Nothing that a caller sends becomes part of a page; scripts set texts as texts."""

from collections.abc import Callable

from flask import Blueprint, Response, request
from msgspec import Struct

from knowalledge import __version__
from knowalledge.console.assets import Assets, File
from knowalledge.console.snapshots import Snapshots
from knowalledge.core.access import Access
from knowalledge.core.errors import NotFound
from knowalledge.core.openapi import Answer, Operation
from knowalledge.web.headers import Headers
from knowalledge.web.responses import json_response

# Scripts, styles and data from this server alone, nothing inline, and no other page around ours.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
_SAFE: Headers = [
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
]
_FOR_GOOD: Headers = [("Cache-Control", "public, max-age=31536000, immutable"), *_SAFE]
_ASKED_AGAIN: Headers = [("Cache-Control", "no-cache"), *_SAFE]
_EVENTS: Headers = [("Cache-Control", "no-store"), ("X-Accel-Buffering", "no"), *_SAFE]


class ModelHere(Struct, frozen=True):
    """A model that may be asked here. ``demonstration``: it is the small built-in one."""

    name: str
    demonstration: bool


class Here(Struct, frozen=True):
    """What runs at this address, for programs."""

    default_model: str
    models: tuple[ModelHere, ...]
    name: str = "knowalledge"
    version: str = __version__
    docs: str = "/api/docs"
    openapi: str = "/api/openapi.json"


def _page(path: str, name: str, summary: str, access: Access = Access.PUBLIC) -> Operation:
    return Operation(
        rank=96,
        method="get",
        path=path,
        tag="pages",
        name=name,
        summary=summary,
        answer=Answer("text/html", headers=()),
        errors=None,
        access=access,
    )


OPERATIONS = (
    Operation(
        rank=96,
        method="get",
        path="/",
        tag="pages",
        name="here",
        summary="What runs here: a page for browsers, JSON for programs",
        answer=Answer(Here, headers=()),
        errors=None,
        access=Access.PUBLIC,
    ),
    _page("/explore", "explore", "The topic explorer"),
    _page("/console", "console", "The operator's page: quotas, queues and caches, live"),
    _page("/assets/{version}/{name}", "asset", "A script, style or picture of the pages"),
    Operation(
        rank=97,
        method="get",
        path="/api/console/stream",
        tag="operations",
        name="console_stream",
        summary="Quotas, queues and caches once a second, as server-sent events named snapshot",
        answer=Answer("text/event-stream", headers=()),
        errors=None,
        access=Access.OPERATE,
    ),
)


def blueprint(assets: Assets, here: Here, snapshots: Snapshots) -> Blueprint:
    routes = Blueprint("console", __name__)

    def respond(file: File, headers: Headers) -> Response:
        response = Response(file.content, 200, headers, content_type=file.content_type)
        response.set_etag(assets.version)
        response.make_conditional(request)
        return response

    @routes.get("/")
    def first() -> Response:
        if "text/html" in request.headers.get("Accept", ""):
            return respond(assets.pages["first"], [*_ASKED_AGAIN, ("Vary", "Accept")])
        return json_response(here, [("Cache-Control", "no-cache"), ("Vary", "Accept")])

    def page(name: str) -> Callable[[], Response]:
        def serve() -> Response:
            return respond(assets.pages[name], _ASKED_AGAIN)

        serve.__name__ = name
        return serve

    for name in ("explore", "console"):
        routes.get(f"/{name}")(page(name))

    @routes.get("/assets/<version>/<name>")
    def asset(version: str, name: str) -> Response:
        file = assets.files.get(name)
        if file is None:
            raise NotFound("there is nothing at this address")
        # A page of the version before may still be open during an update: it gets today's file, and asks again.
        return respond(file, _FOR_GOOD if version == assets.version else _ASKED_AGAIN)

    @routes.get("/api/console/stream")
    def stream() -> Response:
        return Response(snapshots.stream(), 200, _EVENTS, content_type="text/event-stream; charset=utf-8")

    return routes
