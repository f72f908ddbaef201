"""Responses and sessions, as every blueprint uses them."""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, cast

import msgspec
from flask import Flask, Request, Response
from flask.globals import request_ctx
from flask.sessions import NullSession, SessionInterface, SessionMixin

from knowalledge.web.headers import Headers

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIEnvironment

NO_STORE: Headers = [("Cache-Control", "no-store")]
_encode = msgspec.json.Encoder().encode


class Observer(Protocol):
    """Counts HTTP responses."""

    def http(self, route: str, status: int) -> None:
        """``route`` is the rule that matched, so that its values are few."""
        ...


class CompleteResponse(Response):
    """A response whose headers are complete: the framework computes none on the way out."""

    def get_wsgi_response(
        self, environ: "WSGIEnvironment"
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        if environ["REQUEST_METHOD"] == "HEAD":
            return super().get_wsgi_response(environ)
        return cast("Iterable[bytes]", self.response), self.status, self.headers.to_wsgi_list()


class Sessionless(SessionInterface):
    """Opens no session: the gateway has none."""

    _NONE = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - the framework's
        return self._NONE

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """There is nothing to save."""


def current() -> Request:
    """The request itself: each access through the framework's proxy costs a microsecond."""
    return request_ctx.request


def json_response(body: object, headers: Headers, status: int = 200) -> Response:
    """A whole response in JSON."""
    return CompleteResponse(_encode(body), status, headers, content_type="application/json")
