"""Holds every route to the access that it declares."""

from typing import cast

from flask import Blueprint, Flask

from knowalledge.core.access import Access, Role
from knowalledge.core.context import PRINCIPAL, Principal
from knowalledge.core.errors import Forbidden, Unauthenticated
from knowalledge.identity.middleware import REFUSED
from knowalledge.web.access import ACCESS, Routes
from knowalledge.web.responses import current

_NO_KEY = "send your key as Authorization: Bearer KEY, or in your SDK's own header"


def blueprint() -> Blueprint:
    """Refuses a request whose caller may not call its route. It has no routes of its own."""
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
        if access is Access.PUBLIC:
            return
        environ = request.environ
        principal: Principal | None = environ.get(PRINCIPAL)
        if principal is None:
            raise environ.get(REFUSED) or Unauthenticated(_NO_KEY)
        if access is None:  # a route that no operation describes is nobody's
            raise Forbidden("nobody may call this route")
        if principal.role < access:
            raise Forbidden(
                f"this needs the role {Role(access).label}, and the key has {principal.role.label}"
            )

    return guard
