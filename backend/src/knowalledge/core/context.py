"""Who calls, and how urgently."""

from enum import IntEnum

from msgspec import Struct


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
    """Who asks. ``tenant`` partitions caches and fair share."""

    tenant: str = "anonymous"
    max_priority: Priority = Priority.HIGH
