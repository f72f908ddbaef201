"""Holds every route to the access that it declares."""

from typing import cast

from flask import Blueprint, Flask, Response

from knowalledge.core.access import Access, Role
from knowalledge.core.context import PRINCIPAL, Principal
from knowalledge.core.errors import Forbidden, Unauthenticated
from knowalledge.identity.middleware import REFUSED
from knowalledge.identity.service.limiter import Limiter
from knowalledge.web.access import ACCESS, Routes
from knowalledge.web.headers import rate_limit
from knowalledge.web.responses import current

# Where a request's environ has what is known of how often its client asks.
_COUNT = "knowalledge.client_count"
# Blueprints of probes, metrics and documentation, which anybody may ask at any rate.
_UNLIMITED = ("operations", "docs")
_NO_KEY = "send your key as Authorization: Bearer KEY, or in your SDK's own header"


def blueprint(limiter: Limiter) -> Blueprint:
    """Refuses a request whose caller may not call its route, or asks too often. It has no routes of its own."""
    guard = Blueprint("guard", __name__)
    apps: list[Flask] = []
    guard.record_once(lambda state: apps.append(cast("Flask", state.app)))

    # Called before every request that has a route, as `before_app_request` is, at a fourth of its price.
    @guard.app_url_value_preprocessor
    def check(_: str | None, __: dict[str, object] | None) -> None:
        request = current()
        rule = request.url_rule
        # Without a rule nothing is served; OPTIONS tells of methods only.
        if rule is None or request.method == "OPTIONS":
            return
        routes: Routes = apps[0].extensions[ACCESS]
        access = routes.get((rule.rule, request.method))
        environ = request.environ
        principal: Principal | None = environ.get(PRINCIPAL)
        if access is Access.PUBLIC:
            if request.blueprint in _UNLIMITED:
                return
        elif principal is None:
            raise environ.get(REFUSED) or Unauthenticated(_NO_KEY)
        elif access is None:  # a route that no operation describes is nobody's
            raise Forbidden("nobody may call this route")
        elif principal.role < access:
            raise Forbidden(
                f"this needs the role {Role(access).label}, and the key has {principal.role.label}"
            )
        if principal is None:
            environ[_COUNT] = limiter.admit(f"address:{request.remote_addr}", Access.PUBLIC)
        else:
            asked = Access.READ if access is Access.PUBLIC else access
            environ[_COUNT] = limiter.admit(f"user:{principal.tenant}/{principal.user}", asked)

    @guard.after_app_request
    def tell(response: Response) -> Response:
        """What is left to the client, beside what is left of the quota."""
        count = current().environ.get(_COUNT)
        if count is not None:
            for name, value in rate_limit(limiter.allowances(count)):
                response.headers.add(name, value)
        return response

    return guard
