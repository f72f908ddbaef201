"""Who calls, how urgently, and for how long they wait."""

from enum import IntEnum

from msgspec import Struct
from msgspec.structs import force_setattr

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


class Principal(Struct, frozen=True):
    """An authenticated or anonymous caller. ``tenant`` partitions caches and fair share."""

    tenant: str = "anonymous"
    max_priority: Priority = Priority.HIGH


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
