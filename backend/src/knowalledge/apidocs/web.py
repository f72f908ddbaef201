"""``/api/openapi.json`` and ``/api/docs``: the document, and a page of our own that shows it without any other host."""

import re
from base64 import b64encode
from functools import cache
from hashlib import sha256
from importlib.resources import files

import msgspec
from flask import Blueprint, Response

from knowalledge.apidocs.openapi import document

_BLOCK = re.compile(r"<(script|style)>(.*?)</\1>", re.S)
_FRESH = ("Cache-Control", "public, max-age=300")


@cache
def _document() -> bytes:
    return msgspec.json.encode(document())


@cache
def _page() -> tuple[str, str]:
    """The page, and the policy that lets nothing but its own script and style run."""
    page = files("knowalledge.apidocs").joinpath("docs.html").read_text()
    hashes = {kind: b64encode(sha256(text.encode()).digest()).decode() for kind, text in _BLOCK.findall(page)}
    policy = (
        f"default-src 'none'; script-src 'sha256-{hashes['script']}'; style-src 'sha256-{hashes['style']}'; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    return page, policy


def blueprint() -> Blueprint:
    """The routes of the documentation."""
    routes = Blueprint("docs", __name__)

    @routes.get("/api/openapi.json")
    def openapi() -> Response:
        return Response(_document(), 200, [_FRESH], content_type="application/json")

    @routes.get("/api/docs")
    def docs() -> Response:
        page, policy = _page()
        headers = [_FRESH, ("Content-Security-Policy", policy), ("X-Content-Type-Options", "nosniff")]
        return Response(page, 200, headers, content_type="text/html; charset=utf-8")

    return routes
