"""How a request ended: a closed set, one for each request, fit for a metric label."""

from enum import StrEnum

from knowalledge.core import errors


class Outcome(StrEnum):
    OK = "ok"
    CACHED = "cached"
    SHARED = "shared"
    STALE = "stale"
    INVALID = "invalid"
    BLOCKED = "blocked"
    DENIED = "denied"  # who calls is unknown, or may not do this
    REFUSED = "refused"  # by the quota or its queue: come back later
    UNAVAILABLE = "unavailable"
    CLIENT_GONE = "client_gone"
    PROVIDER_LIMITED = "provider_limited"
    PROVIDER_TIMEOUT = "provider_timeout"
    PROVIDER_FAILED = "provider_failed"
    PROVIDER_GARBAGE = "provider_garbage"
    INTERNAL = "internal"


# An error that is not listed has the outcome of its nearest listed base class; one that has none is our own fault.
_BY_ERROR: dict[type[BaseException], Outcome] = {
    errors.InvalidRequest: Outcome.INVALID,
    errors.ContentBlocked: Outcome.BLOCKED,
    errors.NotFound: Outcome.INVALID,
    errors.Conflict: Outcome.INVALID,
    errors.Unauthenticated: Outcome.DENIED,
    errors.Forbidden: Outcome.DENIED,
    errors.Limited: Outcome.REFUSED,
    errors.Unavailable: Outcome.UNAVAILABLE,
    errors.ClientGone: Outcome.CLIENT_GONE,
    GeneratorExit: Outcome.CLIENT_GONE,
    errors.ProviderError: Outcome.PROVIDER_FAILED,
    errors.ProviderRateLimited: Outcome.PROVIDER_LIMITED,
    errors.ProviderTimeout: Outcome.PROVIDER_TIMEOUT,
    errors.ProviderGarbage: Outcome.PROVIDER_GARBAGE,
}


def outcome_of(error: BaseException) -> Outcome:
    """The outcome of a request that failed with this error."""
    return next((_BY_ERROR[base] for base in type(error).__mro__ if base in _BY_ERROR), Outcome.INTERNAL)
