"""A request to a model: everything that changes the answer, and nothing about the caller."""

from enum import StrEnum

from msgspec import Struct

from knowalledge.gateway.domain.prompt import Prompt


# What a client asks of the caches. A docstring here would become part of the OpenAPI document.
class CacheMode(StrEnum):
    DEFAULT = "default"  # a cached answer may serve, and the answer may be cached
    BYPASS = "bypass"  # neither
    ONLY = "only"  # a cached answer, or none


class Request(Struct, frozen=True):
    """One request for an answer. ``core.context.RequestContext`` goes beside it."""

    model: str  # empty: the default model
    prompt: Prompt
    cache: CacheMode | None = None  # None: unspecified; then only deterministic requests are cached
    max_age_s: float | None = None  # greatest age of a cached answer; None: as long as it is fresh
