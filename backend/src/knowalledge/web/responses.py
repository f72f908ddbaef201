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


class Observer(Protocol):
    """Told of every HTTP answer."""

    def http(self, route: str, status: int) -> None: ...


class Ready(Response):
    """An answer that is complete as it is: nothing about it is computed again on its way out."""

    def get_wsgi_response(
        self, environ: "WSGIEnvironment"
    ) -> tuple[Iterable[bytes], str, list[tuple[str, str]]]:
        if environ["REQUEST_METHOD"] == "HEAD":
            return super().get_wsgi_response(environ)
        return cast("Iterable[bytes]", self.response), self.status, self.headers.to_wsgi_list()


class Sessionless(SessionInterface):
    """Nobody has a session here."""

    _NONE = NullSession()

    def open_session(self, app: Flask, request: Request) -> NullSession:  # noqa: ARG002 - the framework's
        return self._NONE

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """There is nothing to save."""


def current() -> Request:
    """The request itself; each look through the framework's proxy costs a microsecond."""
    return request_ctx.request


_encode = msgspec.json.Encoder().encode


def json_response(body: object, headers: Headers, status: int = 200) -> Response:
    """A whole answer."""
    return Ready(_encode(body), status, headers, content_type="application/json")
