"""One request as it enters the service."""

from enum import StrEnum

from msgspec import Struct

from knowalledge.core.context import Principal, Priority
from knowalledge.core.trace_context import UNTRACED, Trace
from knowalledge.gateway.domain.prompt import Prompt


class CacheMode(StrEnum):
    DEFAULT = "default"
    BYPASS = "bypass"
    ONLY = "only"


class Request(Struct, frozen=True):
    """One question as it enters the service."""

    id: str
    model: str
    prompt: Prompt
    principal: Principal = Principal()
    priority: Priority = Priority.MEDIUM
    timeout_s: float | None = None  # the caller's whole patience; None: the configured one
    cache: CacheMode | None = None  # None: not said; then only what is surely the same twice is cached
    max_age_s: float | None = None  # a stored answer may be so old at most; None: as long as it is fresh
    trace: Trace = UNTRACED
