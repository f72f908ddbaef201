"""What a token says of its caller, and what no token may say. Signatures are checked elsewhere.

Sources: RFC 7519 (claims), RFC 7515 (headers), RFC 8725 (attacks and what holds them off).
"""

import json
import re
from base64 import urlsafe_b64decode
from collections.abc import Mapping
from typing import Any

from msgspec import Struct

from knowalledge.core.access import Role
from knowalledge.core.context import Principal, Priority
from knowalledge.core.errors import Unauthenticated

# Headers by which a token would name its own key, or ask for what we do not do. The rest are harmless.
_FORBIDDEN_HEADERS = {"jku", "jwk", "x5u", "x5c", "x5t", "x5t#S256", "crit", "b64", "zip", "enc"}
_SEGMENT = re.compile(r"[A-Za-z0-9_-]+")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:|-]{0,127}")
_ROLES = {it.label: it for it in Role}
WRONG = "the key or token is unknown, expired or revoked"


class Claims(Struct, frozen=True):
    """Which claims name the caller. Dots lead into objects, as in ``realm_access.roles``."""

    tenant: str
    user: str
    roles: str
    default_role: str  # of a token that names none of ours; empty: it is refused


def header_of(token: str) -> Mapping[str, Any]:
    """The header of a compact token whose form is sound.

    Raises ``Unauthenticated`` for segments that are no base64url, objects with a name twice, and headers by which a
    token would choose its own key.
    """
    parts = token.split(".")
    if len(parts) != 3 or not all(map(_SEGMENT.fullmatch, parts)):
        raise Unauthenticated(WRONG)
    header, _ = _object(parts[0]), _object(parts[1])
    if _FORBIDDEN_HEADERS & header.keys() or not isinstance(header.get("alg"), str):
        raise Unauthenticated(WRONG)
    return header


def _object(segment: str) -> dict[str, Any]:
    """A segment's JSON object, in which no name comes twice: readers do not agree on which one counts."""
    try:
        data = urlsafe_b64decode(segment + "=" * (-len(segment) % 4))
        claims = json.loads(data, object_pairs_hook=_without_repetition)
    except (ValueError, RecursionError) as error:
        raise Unauthenticated(WRONG) from error
    if not isinstance(claims, dict):
        raise Unauthenticated(WRONG)
    return claims


def _without_repetition(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    claims = dict(pairs)
    if len(claims) != len(pairs):
        raise ValueError("a name comes twice")
    return claims


def principal_of(claims: Mapping[str, Any], names: Claims) -> Principal:
    """The caller whom the claims of a verified token name. Raises ``Unauthenticated`` if one is missing or unfit."""
    tenant, user = _at(claims, names.tenant), _at(claims, names.user)
    if not (isinstance(tenant, str) and isinstance(user, str)):
        raise Unauthenticated(WRONG)
    if not (_NAME.fullmatch(tenant) and _NAME.fullmatch(user)):
        raise Unauthenticated(WRONG)
    given = _at(claims, names.roles)
    listed = given.split() if isinstance(given, str) else given if isinstance(given, list) else []
    roles = [_ROLES[it] for it in listed if isinstance(it, str) and it in _ROLES]
    if not roles and not names.default_role:
        raise Unauthenticated(WRONG)
    role = max(roles) if roles else _ROLES[names.default_role]
    return Principal(tenant=tenant, max_priority=Priority.HIGH, user=user, role=role)


def _at(claims: Mapping[str, Any], path: str) -> Any:
    """A claim by its whole name, which may hold dots, else by the steps of a path."""
    if path in claims:
        return claims[path]
    value: Any = claims
    for step in path.split("."):
        value = value.get(step) if isinstance(value, dict) else None
    return value
