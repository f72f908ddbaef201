"""Tenants, their users, and the users' keys: what is stored, and the caller that follows from it."""

from typing import Any, Literal

from msgspec import Struct

from knowalledge.core.access import Role
from knowalledge.core.context import Principal, Priority

# Of a caller whose key and user have no model or path in common: no model and no path is called so.
NO_MODEL, NO_PATH = frozenset({""}), ("\0",)


# As they are written in requests, in the database and in the audit log.
RoleName = Literal["readonly", "user", "operator", "admin"]
LevelName = Literal["critical", "high", "medium", "low"]


class Grant(Struct, frozen=True, kw_only=True):
    """What a user or a key may do. Of a key, None and empty mean: as its user."""

    role: RoleName | None = None
    max_priority: LevelName | None = None  # the most urgent that it may claim
    models: tuple[str, ...] = ()  # names; empty: all
    paths: tuple[str, ...] = ()  # how paths begin; empty: all


class Tenant(Struct, frozen=True, kw_only=True):
    """An organisation. Times are seconds since the epoch."""

    name: str
    weight: float = 1.0  # its part of a fair share
    created_at: float
    disabled_at: float | None = None


class User(Struct, frozen=True, kw_only=True):
    """A person or a program of a tenant."""

    tenant: str
    name: str
    grant: Grant
    created_at: float
    disabled_at: float | None = None


class Key(Struct, frozen=True, kw_only=True):
    """What may be shown of a key."""

    id: str
    tenant: str
    user: str
    label: str = ""
    grant: Grant = Grant()
    created_at: float
    expires_at: float | None = None
    revoked_at: float | None = None
    used_at: float | None = None
    replaces: str | None = None  # the key that it was rotated from


class KnownKey(Struct, frozen=True):
    """A key with all that decides whether it counts, as of a generation of the directory."""

    key: Key
    digest: bytes
    user: User
    tenant: Tenant
    generation: int


class Act(Struct, frozen=True, kw_only=True):
    """What an admin did: who, when, to what, and how it was before and after."""

    number: int
    at: float
    actor: str
    act: str
    object: str
    before: Any = None
    after: Any = None


def principal_of(known: KnownKey, now: float) -> Principal | None:
    """The caller whose key this is; None if it does not count: revoked, expired, or its user or tenant is disabled."""
    key, user, tenant = known.key, known.user, known.tenant
    if key.revoked_at is not None or user.disabled_at is not None or tenant.disabled_at is not None:
        return None
    if key.expires_at is not None and key.expires_at <= now:
        return None
    mine, theirs = key.grant, user.grant
    roles = [Role[it.upper()] for it in (mine.role, theirs.role or "user") if it is not None]
    levels = [Priority[it.upper()] for it in (mine.max_priority, theirs.max_priority) if it is not None]
    return Principal(
        tenant=tenant.name,
        max_priority=max(levels, default=Priority.HIGH),
        user=user.name,
        key=key.id,
        role=min(roles),
        models=_both_models(mine.models, theirs.models),
        paths=_both_paths(mine.paths, theirs.paths),
        weight=tenant.weight,
    )


def _both_models(mine: tuple[str, ...], theirs: tuple[str, ...]) -> frozenset[str]:
    if mine and theirs:
        return frozenset(mine) & frozenset(theirs) or NO_MODEL
    return frozenset(mine or theirs)


def _both_paths(mine: tuple[str, ...], theirs: tuple[str, ...]) -> tuple[str, ...]:
    if not mine or not theirs:
        return mine or theirs
    inside = Principal(paths=theirs).may_call, Principal(paths=mine).may_call
    both = (*filter(inside[0], mine), *filter(inside[1], theirs))
    return tuple(dict.fromkeys(both)) or NO_PATH
