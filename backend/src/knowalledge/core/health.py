"""How the parts that a process depends on are."""

from msgspec import Struct


class Dependency(Struct, frozen=True):
    """Something that the gateway needs, and how it is."""

    name: str
    ok: bool
    latency_ms: float
    note: str = ""
