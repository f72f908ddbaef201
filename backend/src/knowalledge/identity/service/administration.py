"""What admins do: make and end tenants, users and keys. Every act is in the audit log."""

import re
from collections.abc import Callable
from typing import TypeVar

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.access import Role
from knowalledge.core.errors import Conflict, InvalidRequest, NotFound
from knowalledge.identity.domain.keys import ID_BYTES, SECRET_BYTES, NewKey, make
from knowalledge.identity.domain.principals import Act, Grant, Key, RoleName, Tenant, User
from knowalledge.identity.ports import Directory

T = TypeVar("T")

# Entries of one page at most.
MAX_PAGE = 500
# A key that was rotated counts for so long, in seconds, unless the admin says otherwise: clients change over meanwhile.
OVERLAP_S = 86_400.0
MAX_WEIGHT = 1_000.0
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@:-]{0,127}")
_MAX_LABEL = 200
_MAX_LIST = 100


class IssuedKey(Struct, frozen=True):
    """A key that has just been made. ``text`` is the key itself: it is shown now and never again."""

    key: Key
    text: str


class Administration:
    """The use cases of admins. ``actor`` says who acts, for the audit log.

    Each raises ``InvalidRequest``, ``NotFound``, ``Conflict`` and ``DatabaseUnavailable``.
    """

    def __init__(
        self,
        directory: Directory,
        secret: Callable[[], bytes],
        now: Callable[[], float],
        randomness: Callable[[int], bytes],
    ) -> None:
        self._directory = directory
        self._secret = secret
        self._now = now
        self._randomness = randomness

    # -- tenants and users ---------------------------------------------------------------------------------------------

    def create_tenant(self, actor: str, name: str, weight: float = 1.0) -> Tenant:
        tenant = Tenant(name=_name(name, "tenant"), weight=_weight(weight), created_at=self._now())
        self._directory.add_tenant(tenant, actor)
        return tenant

    def set_weight(self, actor: str, name: str, weight: float) -> Tenant:
        """Change a tenant's part of a fair share."""
        tenant = replace(self._tenant(name), weight=_weight(weight))
        self._directory.set_tenant(tenant, actor, "tenant.weight", self._now())
        return tenant

    def disable_tenant(self, actor: str, name: str) -> Tenant:
        """From now on no key of the tenant counts."""
        tenant = self._tenant(name)
        if tenant.disabled_at is None:
            tenant = replace(tenant, disabled_at=self._now())
            self._directory.set_tenant(tenant, actor, "tenant.disable", self._now())
        return tenant

    def create_user(self, actor: str, tenant: str, name: str, grant: Grant = Grant()) -> User:  # noqa: B008 - frozen
        checked = replace(_grant(grant), role=grant.role or "user")
        user = User(tenant=tenant, name=_name(name, "user"), grant=checked, created_at=self._now())
        self._directory.add_user(user, actor)
        return user

    def disable_user(self, actor: str, tenant: str, name: str) -> User:
        """From now on no key of the user counts."""
        user = self._user(tenant, name)
        if user.disabled_at is None:
            user = replace(user, disabled_at=self._now())
            self._directory.set_user(user, actor, "user.disable", self._now())
        return user

    def ensure_user(self, actor: str, tenant: str, name: str, role: RoleName | None) -> User:
        """The user, made with its tenant if need be. ``role``: of a new user; one that is there must have it.

        Raises ``Conflict`` for a user whose role is another.
        """
        if self._directory.tenant(_name(tenant, "tenant")) is None:
            self.create_tenant(actor, tenant)
        user = self._directory.user(tenant, name)
        if user is None:
            return self.create_user(actor, tenant, name, Grant(role=role))
        if role is not None and Role[role.upper()] > Role[(user.grant.role or "user").upper()]:
            raise Conflict(
                f"user {name} has the role {user.grant.role}, and a key cannot have more", param="role"
            )
        return user

    # -- keys ----------------------------------------------------------------------------------------------------------

    def create_key(
        self,
        actor: str,
        tenant: str,
        user: str,
        *,
        label: str = "",
        grant: Grant = Grant(),  # noqa: B008 - frozen
        lifetime_s: float | None = None,
    ) -> IssuedKey:
        """A new key. ``lifetime_s``: it expires so long from now; None: never."""
        now = self._now()
        new = self._make()
        key = Key(
            id=new.id,
            tenant=tenant,
            user=user,
            label=_label(label),
            grant=_grant(grant),
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
        )
        self._directory.add_key(key, new.digest, actor)
        return IssuedKey(key, new.text)

    def rotate_key(self, actor: str, key_id: str, overlap_s: float = OVERLAP_S) -> IssuedKey:
        """A new key that may do what the old one may, which counts for ``overlap_s`` longer, and no longer.

        The new one lives as long as the old one was made to live.
        """
        old, now = self.key(key_id), self._now()
        if old.revoked_at is not None or (old.expires_at is not None and old.expires_at <= now):
            raise Conflict("a key that no longer counts cannot be rotated; make a new one")
        lifetime_s = None if old.expires_at is None else old.expires_at - old.created_at
        new = self._make()
        key = replace(
            old,
            id=new.id,
            created_at=now,
            expires_at=None if lifetime_s is None else now + lifetime_s,
            used_at=None,
            replaces=old.id,
        )
        ends_at = now + overlap_s if old.expires_at is None else min(old.expires_at, now + overlap_s)
        self._directory.replace_key(replace(old, expires_at=ends_at), key, new.digest, actor)
        return IssuedKey(key, new.text)

    def revoke_key(self, actor: str, key_id: str) -> Key:
        """From now on the key does not count; every replica knows within a second."""
        key = self.key(key_id)
        if key.revoked_at is None:
            key = replace(key, revoked_at=self._now())
            self._directory.set_key(key, actor, "key.revoke", self._now())
        return key

    def key(self, key_id: str) -> Key:
        known = self._directory.find(key_id)
        if known is None:
            raise NotFound("there is no such key")
        return known.key

    # -- reading -------------------------------------------------------------------------------------------------------

    def tenants(self, after: str = "", limit: int = MAX_PAGE) -> tuple[Tenant, ...]:
        return self._directory.tenants(after, limit)

    def users(self, tenant: str, after: str = "", limit: int = MAX_PAGE) -> tuple[User, ...]:
        return self._directory.users(tenant, after, limit)

    def keys(
        self, tenant: str = "", user: str = "", after: str = "", limit: int = MAX_PAGE
    ) -> tuple[Key, ...]:
        return self._directory.keys(tenant, user, after, limit)

    def acts(self, after: int = 0, limit: int = MAX_PAGE) -> tuple[Act, ...]:
        return self._directory.acts(after, limit)

    # ------------------------------------------------------------------------------------------------------------------

    def _make(self) -> NewKey:
        return make(self._secret(), self._randomness(ID_BYTES + SECRET_BYTES))

    def _tenant(self, name: str) -> Tenant:
        return _found(self._directory.tenant(name), "tenant")

    def _user(self, tenant: str, name: str) -> User:
        return _found(self._directory.user(tenant, name), "user")


def _found(value: T | None, what: str) -> T:
    if value is None:
        raise NotFound(f"there is no such {what}")
    return value


def _name(name: str, what: str) -> str:
    if not _NAME.fullmatch(name):
        raise InvalidRequest(
            f"a {what}'s name is up to 128 letters, digits, dots, colons, dashes and @", param=what
        )
    return name


def _label(label: str) -> str:
    if len(label) > _MAX_LABEL or not label.isprintable():
        raise InvalidRequest(f"a label is at most {_MAX_LABEL} printable characters", param="label")
    return label


def _weight(weight: float) -> float:
    if not 0 < weight <= MAX_WEIGHT:
        raise InvalidRequest(f"a weight is above 0 and at most {MAX_WEIGHT:g}", param="weight")
    return weight


def _grant(grant: Grant) -> Grant:
    if len(grant.models) > _MAX_LIST or not all(0 < len(it) <= 200 for it in grant.models):
        raise InvalidRequest(f"give at most {_MAX_LIST} names of models", param="models")
    if len(grant.paths) > _MAX_LIST or not all(it.startswith("/") and len(it) <= 200 for it in grant.paths):
        raise InvalidRequest(f"give at most {_MAX_LIST} beginnings of paths such as /v1", param="paths")
    return grant
