"""What identity needs from outside, as Protocols."""

from collections.abc import Mapping
from typing import Protocol

from knowalledge.core.context import Principal
from knowalledge.identity.domain.principals import Act, Key, KnownKey, Tenant, User
from knowalledge.identity.domain.rates import ClientCount


class Directory(Protocol):
    """Who may call, kept. Every change is one transaction: with its line in the audit log, and a new generation.

    Each method raises ``DatabaseUnavailable``; the changes raise ``Conflict`` and ``NotFound``, too.
    """

    def generation(self) -> int:
        """Grows with every change; what was read at an older one may no longer hold."""
        ...

    def find(self, key_id: str) -> KnownKey | None:
        """A key and whose it is."""
        ...

    def tenant(self, name: str) -> Tenant | None: ...

    def user(self, tenant: str, name: str) -> User | None: ...

    def tenants(self, after: str, limit: int) -> tuple[Tenant, ...]:
        """In the order of their names, from the one that follows ``after``."""
        ...

    def users(self, tenant: str, after: str, limit: int) -> tuple[User, ...]:
        """Of one tenant, in the order of their names."""
        ...

    def keys(self, tenant: str, user: str, after: str, limit: int) -> tuple[Key, ...]:
        """In the order of their ids; an empty ``tenant`` or ``user``: of all."""
        ...

    def acts(self, after: int, limit: int) -> tuple[Act, ...]:
        """The audit log in its order, from the line that follows number ``after``."""
        ...

    def add_tenant(self, tenant: Tenant, actor: str) -> None: ...

    def add_user(self, user: User, actor: str) -> None: ...

    def add_key(self, key: Key, digest: bytes, actor: str) -> None: ...

    def set_tenant(self, tenant: Tenant, actor: str, act: str, at: float) -> None:
        """Replace a tenant of the same name."""
        ...

    def set_user(self, user: User, actor: str, act: str, at: float) -> None:
        """Replace a user of the same name and tenant."""
        ...

    def set_key(self, key: Key, actor: str, act: str, at: float) -> None:
        """Replace a key's end: ``expires_at`` and ``revoked_at``."""
        ...

    def replace_key(self, old: Key, new: Key, digest: bytes, actor: str) -> None:
        """Set the end of ``old`` and add ``new``, or neither."""
        ...

    def mark_used(self, used: Mapping[str, float]) -> None:
        """When keys were last used, by id. No change in the sense above."""
        ...


class SharedCounts(Protocol):
    """What all replicas have counted of each client. What this replica has counted alone is told with every call."""

    def place(self, name: str, count: ClientCount, now: float) -> bool | None:
        """Whether a request more has room in every window, in which it is then counted; None: nobody can tell."""
        ...

    def report(self, name: str, count: ClientCount, now: float) -> None:
        """Tell, and learn what others have counted."""
        ...


class Tokens(Protocol):
    """Checks tokens that somebody else has issued."""

    def principal(self, token: str) -> tuple[Principal, float]:
        """The caller, and when the token expires. Raises ``Unauthenticated``."""
        ...
