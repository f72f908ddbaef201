"""Every way a request can fail, as one tree; each edge maps it once.

    KnowalledgeError
    ├── InvalidRequest            the caller must change something
    │   ├── UnknownModel          names the nearest known one
    │   ├── NeverFits             larger than a whole window: waiting cannot help
    │   ├── PayloadTooLarge
    │   └── ContentBlocked        the provider refuses the prompt's content
    ├── Unauthenticated
    ├── Forbidden
    ├── NotFound
    ├── IdempotencyConflict       the same key is still running
    ├── IdempotencyMismatch       the same key came with another body
    ├── Limited                   come back later; always says when
    │   ├── QuotaExhausted
    │   ├── QueueFull
    │   ├── QueueTimeout
    │   └── DeadlineTooShort      the ETA is past the caller's deadline
    ├── Unavailable               not now, not here
    │   ├── CircuitOpen
    │   ├── ShuttingDown
    │   └── CacheMiss             asked for `cache: only`
    ├── ClientGone                nobody is left to answer
    └── ProviderError             the provider did not do its part
        ├── ProviderRateLimited   429, with what it taught
        ├── ProviderUnavailable   refused, reset, 5xx
        ├── ProviderTimeout       the deadline passed
        ├── ProviderRejected      4xx: it does not take this request
        ├── ProviderGarbage       an answer that cannot be read, or ends in the middle
        └── ProviderAuth          our credentials do not work

Messages are fit for the caller: they never hold a prompt, a secret or a stack.
"""


class KnowalledgeError(Exception):
    """Base of all. ``code`` is stable and documented."""

    code = "internal"

    def __init__(self, message: str, *, retry_after: float | None = None, param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after  # seconds
        self.param = param  # the field or header at fault


class InvalidRequest(KnowalledgeError):
    code = "invalid_request"


class UnknownModel(InvalidRequest):
    code = "unknown_model"


class NeverFits(InvalidRequest):
    code = "never_fits"


class PayloadTooLarge(InvalidRequest):
    code = "payload_too_large"


class ContentBlocked(InvalidRequest):
    code = "content_blocked"


class Unauthenticated(KnowalledgeError):
    code = "unauthenticated"


class Forbidden(KnowalledgeError):
    code = "forbidden"


class NotFound(KnowalledgeError):
    code = "not_found"


class IdempotencyConflict(KnowalledgeError):
    code = "idempotency_conflict"


class IdempotencyMismatch(KnowalledgeError):
    code = "idempotency_mismatch"


class Limited(KnowalledgeError):
    code = "limited"


class QuotaExhausted(Limited):
    code = "quota_exhausted"


class QueueFull(Limited):
    code = "queue_full"


class QueueTimeout(Limited):
    code = "queue_timeout"


class DeadlineTooShort(Limited):
    code = "deadline_too_short"


class Unavailable(KnowalledgeError):
    code = "unavailable"


class CircuitOpen(Unavailable):
    code = "circuit_open"


class ShuttingDown(Unavailable):
    code = "shutting_down"


class CacheMiss(Unavailable):
    code = "cache_miss"


class ClientGone(KnowalledgeError):
    code = "client_gone"


class ProviderError(KnowalledgeError):
    code = "provider_error"


class ProviderRateLimited(ProviderError):
    """``quota_id`` is Google's QuotaFailure quotaId where it was given, else empty."""

    code = "provider_rate_limited"

    def __init__(self, message: str, *, retry_after: float | None = None, quota_id: str = "") -> None:
        super().__init__(message, retry_after=retry_after)
        self.quota_id = quota_id


class ProviderUnavailable(ProviderError):
    code = "provider_unavailable"


class ProviderTimeout(ProviderError):
    code = "provider_timeout"


class ProviderRejected(ProviderError):
    code = "provider_rejected"


class ProviderGarbage(ProviderError):
    code = "provider_garbage"


class ProviderAuth(ProviderError):
    code = "provider_auth"
