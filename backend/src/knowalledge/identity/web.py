"""The routes of admins: tenants, users, keys, and the audit log."""

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import msgspec
from flask import Blueprint, Request, Response
from msgspec import Struct

from knowalledge.core.access import Access
from knowalledge.core.errors import Forbidden, InvalidRequest
from knowalledge.core.openapi import Answer, Operation
from knowalledge.identity.domain.principals import Act, Grant, Key, Tenant, User
from knowalledge.identity.service.administration import MAX_PAGE, OVERLAP_S, Administration, IssuedKey
from knowalledge.web.bodies import decode
from knowalledge.web.context import WebContext
from knowalledge.web.problems import PROBLEM
from knowalledge.web.responses import current, json_response

DEFAULT_PAGE = 50
_MAX_LIFETIME_S = 10 * 366 * 86_400.0
T = TypeVar("T")


class NewTenant(Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant to make. ``weight``: its part of a fair share."""

    name: str
    weight: float = 1.0


class NewWeight(Struct, frozen=True, forbid_unknown_fields=True):
    """A tenant's part of a fair share."""

    weight: float


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """A user to make, and what it may do."""

    tenant: str
    name: str
    grant: Grant = Grant()


class NewKeyBody(Struct, frozen=True, forbid_unknown_fields=True):
    """A key to make. ``expires_in_s``: seconds from now; null: never. ``grant`` narrows what its user may do."""

    tenant: str
    user: str
    label: str = ""
    grant: Grant = Grant()
    expires_in_s: float | None = None


class RotateBody(Struct, frozen=True, forbid_unknown_fields=True):
    """For how many seconds the old key still counts."""

    overlap_s: float = OVERLAP_S


class Tenants(Struct, frozen=True):
    """A page. ``next`` is the ``after`` of the next one; null: this is the last."""

    items: tuple[Tenant, ...]
    next: str | None


class Users(Struct, frozen=True):
    """A page, as of tenants."""

    items: tuple[User, ...]
    next: str | None


class Keys(Struct, frozen=True):
    """A page, as of tenants."""

    items: tuple[Key, ...]
    next: str | None


class Acts(Struct, frozen=True):
    """A page of the audit log, as of tenants."""

    items: tuple[Act, ...]
    next: str | None


_PAGE: tuple[dict[str, Any], ...] = (
    {"name": "after", "in": "query", "schema": {"type": "string"}},
    {
        "name": "limit",
        "in": "query",
        "schema": {"type": "integer", "minimum": 1, "maximum": MAX_PAGE, "default": DEFAULT_PAGE},
    },
)
_operation = partial(Operation, rank=80, tag="admin", errors=PROBLEM)
_read = partial(_operation, method="get", access=Access.OPERATE)
_change = partial(_operation, method="post", access=Access.ADMINISTER)
_ADMIN = "/api/v1/admin"


def _query(*names: str) -> tuple[dict[str, Any], ...]:
    return (*({"name": it, "in": "query", "schema": {"type": "string"}} for it in names), *_PAGE)


OPERATIONS = (
    _read(
        path=f"{_ADMIN}/tenants", name="tenants", summary="Tenants", answer=Answer(Tenants), query=_query()
    ),
    _change(
        path=f"{_ADMIN}/tenants",
        name="tenant_create",
        summary="Make a tenant",
        body=NewTenant,
        answer=Answer(Tenant),
    ),
    _change(
        path=f"{_ADMIN}/tenants/{{tenant}}/weight",
        name="tenant_weight",
        summary="Change the tenant's part of a fair share",
        body=NewWeight,
        answer=Answer(Tenant),
    ),
    _change(
        path=f"{_ADMIN}/tenants/{{tenant}}/disable",
        name="tenant_disable",
        summary="No key of the tenant counts any more",
        answer=Answer(Tenant),
    ),
    _read(
        path=f"{_ADMIN}/users",
        name="users",
        summary="The users of a tenant",
        answer=Answer(Users),
        query=_query("tenant"),
    ),
    _change(
        path=f"{_ADMIN}/users",
        name="user_create",
        summary="Make a user",
        body=NewUser,
        answer=Answer(User),
    ),
    _change(
        path=f"{_ADMIN}/tenants/{{tenant}}/users/{{user}}/disable",
        name="user_disable",
        summary="No key of the user counts any more",
        answer=Answer(User),
    ),
    _read(
        path=f"{_ADMIN}/keys",
        name="keys",
        summary="Keys, without the keys themselves",
        answer=Answer(Keys),
        query=_query("tenant", "user"),
    ),
    _change(
        path=f"{_ADMIN}/keys",
        name="key_create",
        summary="Make a key; the answer is the only place where it is ever shown",
        body=NewKeyBody,
        answer=Answer(IssuedKey),
    ),
    _change(
        path=f"{_ADMIN}/keys/{{key}}/rotate",
        name="key_rotate",
        summary="Make a key that replaces another, which counts for a while longer",
        body=RotateBody,
        answer=Answer(IssuedKey),
    ),
    _change(
        path=f"{_ADMIN}/keys/{{key}}/revoke",
        name="key_revoke",
        summary="The key does not count any more, in any replica, within a second",
        answer=Answer(Key),
    ),
    _read(
        path=f"{_ADMIN}/audit",
        name="audit",
        summary="What admins did, oldest first",
        answer=Answer(Acts),
        query=_query(),
    ),
)

_tenant_body = msgspec.json.Decoder(NewTenant)
_weight_body = msgspec.json.Decoder(NewWeight)
_user_body = msgspec.json.Decoder(NewUser)
_key_body = msgspec.json.Decoder(NewKeyBody)
_rotate_body = msgspec.json.Decoder(RotateBody)


def closed() -> Administration:
    """Where callers do not authenticate, nobody administers over HTTP: a key made so would outlive that setting."""
    raise Forbidden("auth.mode is none; use the command line")


def blueprint(web: WebContext, open_administration: Callable[[], Administration]) -> Blueprint:
    """The routes. ``open_administration`` raises where there are no admins."""
    routes = Blueprint("admin", __name__, url_prefix=_ADMIN)
    _register_tenants_and_users(routes, web, open_administration)
    _register_keys(routes, web, open_administration)

    @routes.get("/audit")
    def audit() -> Response:
        administration, http = open_administration(), current()
        after, limit = _page(http)
        if after and not after.isdecimal():
            raise InvalidRequest("after is the number of a line", param="after")
        rows = administration.acts(int(after or 0), limit)
        return json_response(Acts(rows, _next(rows, limit, lambda it: str(it.number))), web.headers(http))

    return routes


def _register_tenants_and_users(
    routes: Blueprint, web: WebContext, open_administration: Callable[[], Administration]
) -> None:
    @routes.get("/tenants")
    def tenants() -> Response:
        administration, http = open_administration(), current()
        after, limit = _page(http)
        rows = administration.tenants(after, limit)
        return json_response(Tenants(rows, _next(rows, limit, lambda it: it.name)), web.headers(http))

    @routes.post("/tenants")
    def create_tenant() -> Response:
        administration, http = open_administration(), current()
        body: NewTenant = decode(_tenant_body, web.read_body(http))
        return json_response(
            administration.create_tenant(_actor(web, http), body.name, body.weight), web.headers(http)
        )

    @routes.post("/tenants/<tenant>/weight")
    def set_weight(tenant: str) -> Response:
        administration, http = open_administration(), current()
        body: NewWeight = decode(_weight_body, web.read_body(http))
        return json_response(
            administration.set_weight(_actor(web, http), tenant, body.weight), web.headers(http)
        )

    @routes.post("/tenants/<tenant>/disable")
    def disable_tenant(tenant: str) -> Response:
        administration, http = open_administration(), current()
        return json_response(administration.disable_tenant(_actor(web, http), tenant), web.headers(http))

    @routes.get("/users")
    def users() -> Response:
        administration, http = open_administration(), current()
        after, limit = _page(http)
        tenant = http.args.get("tenant", "")
        if not tenant:
            raise InvalidRequest("name the tenant", param="tenant")
        rows = administration.users(tenant, after, limit)
        return json_response(Users(rows, _next(rows, limit, lambda it: it.name)), web.headers(http))

    @routes.post("/users")
    def create_user() -> Response:
        administration, http = open_administration(), current()
        body: NewUser = decode(_user_body, web.read_body(http))
        user = administration.create_user(_actor(web, http), body.tenant, body.name, body.grant)
        return json_response(user, web.headers(http))

    @routes.post("/tenants/<tenant>/users/<user>/disable")
    def disable_user(tenant: str, user: str) -> Response:
        administration, http = open_administration(), current()
        return json_response(administration.disable_user(_actor(web, http), tenant, user), web.headers(http))


def _register_keys(
    routes: Blueprint, web: WebContext, open_administration: Callable[[], Administration]
) -> None:
    @routes.get("/keys")
    def keys() -> Response:
        administration, http = open_administration(), current()
        after, limit = _page(http)
        rows = administration.keys(http.args.get("tenant", ""), http.args.get("user", ""), after, limit)
        return json_response(Keys(rows, _next(rows, limit, lambda it: it.id)), web.headers(http))

    @routes.post("/keys")
    def create_key() -> Response:
        administration, http = open_administration(), current()
        body: NewKeyBody = decode(_key_body, web.read_body(http))
        issued = administration.create_key(
            _actor(web, http),
            body.tenant,
            body.user,
            label=body.label,
            grant=body.grant,
            lifetime_s=_seconds(body.expires_in_s, "expires_in_s") if body.expires_in_s is not None else None,
        )
        return json_response(issued, web.headers(http))

    @routes.post("/keys/<key>/rotate")
    def rotate_key(key: str) -> Response:
        administration, http = open_administration(), current()
        data = web.read_body(http)
        body: RotateBody = decode(_rotate_body, data) if data else RotateBody()
        overlap_s = _seconds(body.overlap_s, "overlap_s")
        return json_response(administration.rotate_key(_actor(web, http), key, overlap_s), web.headers(http))

    @routes.post("/keys/<key>/revoke")
    def revoke_key(key: str) -> Response:
        administration, http = open_administration(), current()
        return json_response(administration.revoke_key(_actor(web, http), key), web.headers(http))


def _actor(web: WebContext, http: Request) -> str:
    caller = web.principal(http)
    return f"{caller.tenant}/{caller.user}" + (f" key {caller.key}" if caller.key else "")


def _page(http: Request) -> tuple[str, int]:
    limit = http.args.get("limit", str(DEFAULT_PAGE))
    if not limit.isdecimal() or len(limit) > 4 or not 1 <= int(limit) <= MAX_PAGE:
        raise InvalidRequest(f"limit is 1 to {MAX_PAGE}", param="limit")
    return http.args.get("after", ""), int(limit)


def _next(rows: tuple[T, ...], limit: int, name: Callable[[T], str]) -> str | None:
    return name(rows[-1]) if len(rows) == limit else None


def _seconds(value: float, param: str) -> float:
    if not 0 <= value <= _MAX_LIFETIME_S:
        raise InvalidRequest("give seconds from 0 to ten years", param=param)
    return value
