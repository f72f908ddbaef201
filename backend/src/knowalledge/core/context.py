"""Who calls, how urgently, and for how long they wait."""

from enum import IntEnum

from msgspec import Struct
from msgspec.structs import force_setattr

from knowalledge.core.access import Role
from knowalledge.core.trace_context import UNTRACED, Trace


class Priority(IntEnum):
    """Who goes first when the quota is full; lower is more urgent (RFC 9218 urgency 0-1, 2-3, 4-5, 6-7)."""

    CRITICAL = 0
    HIGH = 1
    MEDIUM = 2
    LOW = 3

    @property
    def label(self) -> str:
        return self.name.lower()


# Where a request's environ has its authenticated caller.
PRINCIPAL = "knowalledge.principal"


class Principal(Struct, frozen=True):
    """An authenticated or anonymous caller. ``tenant`` partitions caches and fair share.

    ``user`` and ``key`` are empty where callers do not authenticate. ``models`` are the names that it may use and
    ``paths`` how the paths begin that it may call; empty: all. ``weight`` is its tenant's part of a fair share.
    """

    tenant: str = "anonymous"
    max_priority: Priority = Priority.HIGH
    user: str = ""
    key: str = ""
    role: Role = Role.USER
    models: frozenset[str] = frozenset()
    paths: tuple[str, ...] = ()
    weight: float = 1.0

    def may_use(self, model: str) -> bool:
        """Whether it may use the model of this name."""
        return not self.models or model in self.models

    def may_call(self, path: str) -> bool:
        """Whether a path begins like one that it may call, at a border of its segments."""
        if not self.paths:
            return True
        return any(path == it or path.startswith(it.rstrip("/") + "/") for it in self.paths)


class RequestContext(Struct, frozen=True):
    """What accompanies a request through the gateway and does not change its answer.

    The priority is never more urgent than the principal may claim: a more urgent one is lowered when the context is
    made, so no caller has to check it again.
    """

    request_id: str
    principal: Principal = Principal()
    priority: Priority = Priority.MEDIUM
    timeout_s: float | None = None  # the caller's deadline from arrival; None: ``request.timeout``
    trace: Trace = UNTRACED

    def __post_init__(self) -> None:
        if self.priority < self.principal.max_priority:
            force_setattr(self, "priority", self.principal.max_priority)
