"""The Flask application that serves the features, and the one place where errors become responses."""

from collections.abc import Sequence

import structlog
from flask import Flask, Response, request
from werkzeug.exceptions import HTTPException

from knowalledge.core.errors import KnowalledgeError, release_frames
from knowalledge.core.feature import Feature
from knowalledge.web import problems
from knowalledge.web.access import ACCESS, access_by_route
from knowalledge.web.context import RECORDED, WebContext
from knowalledge.web.responses import Sessionless


def make_application(features: Sequence[Feature], web: WebContext) -> Flask:
    """The routes and middleware of all features. The first feature's middleware sees a request first."""
    app = Flask("knowalledge", static_folder=None)
    app.session_interface = Sessionless()
    # A path is taken as it is: a redirect to a tidier one would name whatever Host the client claimed.
    app.url_map.merge_slashes = False
    for feature in features:
        for blueprint in feature.blueprints:
            app.register_blueprint(blueprint)
    operations = (operation for feature in features for operation in feature.operations)
    app.extensions[ACCESS] = access_by_route(app, operations)
    for feature in reversed(features):
        if feature.middleware is not None:
            app.wsgi_app = feature.middleware(app.wsgi_app)  # type: ignore[method-assign, assignment]

    @app.errorhandler(Exception)
    def fail(error: Exception) -> Response:
        unrouted = isinstance(error, HTTPException) and error.code in (404, 405)
        if isinstance(error, HTTPException):
            error = problems.from_http_exception(error)
        elif not isinstance(error, KnowalledgeError):
            # The class and the place; never the message, which may quote a prompt.
            structlog.get_logger().error(
                "unhandled",
                error=type(error).__name__,
                where=problems.source_of(error),
                request_id=web.request_id(request),
            )
        for feature in features:
            feature.on_error(request, error)
        forms = (feature.error_form(request) for feature in features)
        form = next((it for it in forms if it is not None), problems.PROBLEM)
        if unrouted and form is problems.PROBLEM and "text/html" in request.headers.get("Accept", ""):
            response = problems.page(error, web.request_id(request))
        else:
            response = problems.response(error, web.request_id(request), form)
        if response.status_code >= 500 and RECORDED not in request.environ:
            # A provider's answer that counted as a success may be useless to who asked for it.
            structlog.get_logger().warning(
                "failed response",
                status=response.status_code,
                error=problems.code_of(error),
                route=request.url_rule.rule if request.url_rule else "unmatched",
                request_id=web.request_id(request),
            )
        release_frames(error)
        return response

    @app.after_request
    def count(response: Response) -> Response:
        rule = request.url_rule
        web.observer.http(rule.rule if rule else "unmatched", response.status_code)
        return response

    return app
