"""How a request ended: a closed set, one per request, fit for a metric label."""

from enum import StrEnum

from knowalledge.core import errors as e


class Outcome(StrEnum):
    OK = "ok"
    CACHED = "cached"
    SHARED = "shared"
    STALE = "stale"
    INVALID = "invalid"
    BLOCKED = "blocked"
    REFUSED = "refused"  # quota or queue said later
    UNAVAILABLE = "unavailable"
    CLIENT_GONE = "client_gone"
    PROVIDER_LIMITED = "provider_limited"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_FAILED = "provider_failed"
    PROVIDER_GARBAGE = "provider_garbage"
    INTERNAL = "internal"


# First match wins: the narrow before the wide.
_BY_ERROR: tuple[tuple[type[BaseException], Outcome], ...] = (
    (e.ContentBlocked, Outcome.BLOCKED),
    (e.InvalidRequest, Outcome.INVALID),
    (e.NotFound, Outcome.INVALID),
    (e.Limited, Outcome.REFUSED),
    (e.Unavailable, Outcome.UNAVAILABLE),
    (e.ClientGone, Outcome.CLIENT_GONE),
    (GeneratorExit, Outcome.CLIENT_GONE),
    (e.ProviderRateLimited, Outcome.PROVIDER_LIMITED),
    (e.ProviderTimeout, Outcome.PROVIDER_TIMEOUT),
    (e.ProviderGarbage, Outcome.PROVIDER_GARBAGE),
    (e.ProviderError, Outcome.PROVIDER_FAILED),
)


def outcome_of(error: BaseException) -> Outcome:
    """The one outcome of a failure."""
    return next((outcome for kind, outcome in _BY_ERROR if isinstance(error, kind)), Outcome.INTERNAL)
