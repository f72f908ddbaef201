"""The API's documentation: ``/api/openapi.json``, and ``/api/docs``, a page that needs no other host to show it."""

import re
from base64 import b64encode
from collections.abc import Iterable
from functools import cache
from hashlib import sha256
from importlib.resources import files

import msgspec
from flask import Blueprint, Response

from knowalledge.core.access import Access
from knowalledge.core.feature import Feature
from knowalledge.core.openapi import Answer, Operation
from knowalledge.web.docs.document import make_document

_BLOCK = re.compile(r"<(script|style)>(.*?)</\1>", re.S)
_CACHEABLE = ("Cache-Control", "public, max-age=300")

OPERATIONS = (
    Operation(
        rank=94,
        method="get",
        path="/api/openapi.json",
        tag="operations",
        name="openapi",
        summary="This document",
        answer=Answer("application/json", headers=()),
        errors=None,
        access=Access.PUBLIC,
    ),
    Operation(
        rank=94,
        method="get",
        path="/api/docs",
        tag="operations",
        name="docs",
        summary="This document, to read",
        answer=Answer("text/html", headers=()),
        errors=None,
        access=Access.PUBLIC,
    ),
)


def build(features: Iterable[Feature]) -> Feature:
    """Describes the operations of ``features``, and its own."""
    operations = (*(operation for feature in features for operation in feature.operations), *OPERATIONS)
    document = cache(lambda: msgspec.json.encode(make_document(operations)))
    routes = Blueprint("docs", __name__)

    @routes.get("/api/openapi.json")
    def openapi() -> Response:
        return Response(document(), 200, [_CACHEABLE], content_type="application/json")

    @routes.get("/api/docs")
    def docs() -> Response:
        page, policy = _page()
        headers = [_CACHEABLE, ("Content-Security-Policy", policy), ("X-Content-Type-Options", "nosniff")]
        return Response(page, 200, headers, content_type="text/html; charset=utf-8")

    return Feature(blueprints=(routes,), operations=OPERATIONS)


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets nothing but its own script and style run."""
    page = files("knowalledge.web.docs").joinpath("docs.html").read_text()
    hashes = {kind: b64encode(sha256(text.encode()).digest()).decode() for kind, text in _BLOCK.findall(page)}
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy
