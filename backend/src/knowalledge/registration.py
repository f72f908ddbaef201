"""Blueprints: they parse, call the service and render. ``register`` puts them on an application."""

from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from knowalledge.apidocs import web as docs
from knowalledge.core.errors import KnowalledgeError
from knowalledge.gateway.api import dialects
from knowalledge.gateway.api.context import ApiContext
from knowalledge.observability import web as operations
from knowalledge.observability.web import Operations
from knowalledge.web import problems
from knowalledge.web.responses import Sessionless


def register(app: Flask, api: ApiContext, ops: Operations) -> None:
    """Every route, and the one place where errors become answers."""
    app.session_interface = Sessionless()
    # An address means what it says: a redirect to a tidier one would name whatever Host the caller claimed.
    app.url_map.merge_slashes = False
    for dialect in dialects.DIALECTS:
        app.register_blueprint(dialect.blueprint(api))
    app.register_blueprint(docs.blueprint())
    app.register_blueprint(operations.blueprint(ops))

    @app.errorhandler(Exception)
    def failed(error: Exception) -> Response:
        if isinstance(error, HTTPException):
            error = problems.from_http_exception(error)
        elif not isinstance(error, KnowalledgeError):
            # The class and the place; never the message, which may quote a prompt.
            app.logger.error("unhandled %s at %s", type(error).__name__, problems.source_of(error))
        if request.blueprint in dialects.NAMES:
            api.record_failure(request, error)
        return problems.response(error, api.web.request_id(request), dialects.error_form(request))

    @app.after_request
    def observed(response: Response) -> Response:
        rule = request.url_rule
        api.web.observer.http(rule.rule if rule else "unmatched", response.status_code)
        return response
