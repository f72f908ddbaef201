"""Every way a request can fail, as one tree; each edge maps it once.

    KnowalledgeError
    ├── InvalidRequest            the caller must change something
    │   ├── UnknownModel          names the nearest known one
    │   ├── NeverFits             larger than a whole window: waiting cannot help
    │   ├── PayloadTooLarge
    │   ├── ContentBlocked        the provider refuses the prompt's content
    │   └── ProviderRejected      4xx about the request: the provider does not take it
    ├── NotFound
    ├── Conflict                  what is there already is in the way
    ├── Unauthenticated           no key, or one that does not count
    ├── Forbidden                 a known caller who may not do this
    ├── Limited                   come back later; always says when
    │   ├── QuotaExhausted
    │   ├── QueueFull
    │   ├── QueueTimeout
    │   ├── DeadlineTooShort      the ETA is past the caller's deadline
    │   └── ClientLimited         this client asks too often
    ├── Unavailable               not now, not here
    │   ├── CircuitOpen
    │   ├── ShuttingDown
    │   ├── HostExhausted         no file descriptors left here
    │   ├── DatabaseUnavailable
    │   └── CacheMiss             asked for `cache: only`
    ├── ClientGone                nobody is left to answer
    └── ProviderError             the provider did not do its part
        ├── ProviderRateLimited   429, with what it taught
        ├── ProviderUnavailable   refused, reset, 5xx
        ├── ProviderTimeout       the deadline passed
        ├── ProviderGarbage       an answer that cannot be read, or ends in the middle
        └── ProviderAuth          our credentials do not work

Messages are fit for the caller: they never hold a prompt, a secret or a stack.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from knowalledge.core.limits import Allowance


class KnowalledgeError(Exception):
    """A fault of this program, and the base class of all others. ``code`` is stable and documented."""

    code = "internal"

    def __init__(self, message: str, *, retry_after: float | None = None, param: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.retry_after = retry_after  # seconds
        self.param = param  # the field or header at fault


class InvalidRequest(KnowalledgeError):
    """The request must be changed; ``param`` names what is wrong."""

    code = "invalid_request"


class UnknownModel(InvalidRequest):
    """No such model; the message names the nearest known one."""

    code = "unknown_model"


class NeverFits(InvalidRequest):
    """Larger than a whole window of the quota: waiting cannot help; the message names the limit."""

    code = "never_fits"


class PayloadTooLarge(InvalidRequest):
    """The body is larger than ``server.max_body``."""

    code = "payload_too_large"


class ContentBlocked(InvalidRequest):
    """The provider refuses the prompt's content; ``reason`` is its word for why, such as Google's blockReason."""

    code = "content_blocked"
    reason = ""

    def __init__(
        self, message: str, *, retry_after: float | None = None, param: str = "", reason: str = ""
    ) -> None:
        super().__init__(message, retry_after=retry_after, param=param)
        if reason:
            self.reason = reason


class ProviderRejected(InvalidRequest):
    """The provider does not take this request; the status and the reason are the provider's.

    ``status`` is the provider's, 400 to 498; ``provider_code`` is its own name for the fault, such as
    ``context_length_exceeded``, empty if it gave none.
    """

    code = "provider_rejected"

    def __init__(
        self,
        message: str,
        *,
        retry_after: float | None = None,
        param: str = "",
        status: int = 400,
        provider_code: str = "",
    ) -> None:
        super().__init__(message, retry_after=retry_after, param=param)
        self.status = status
        self.provider_code = provider_code


class NotFound(KnowalledgeError):
    """There is nothing at this address."""

    code = "not_found"


class Conflict(KnowalledgeError):
    """What is there already is in the way."""

    code = "conflict"


class Unauthenticated(KnowalledgeError):
    """There is no key or token, or one that is unknown, expired or revoked."""

    code = "unauthenticated"


class Forbidden(KnowalledgeError):
    """The caller is known, and may not do this."""

    code = "forbidden"


class Limited(KnowalledgeError):
    """Come back later."""

    code = "limited"
    allowances: "tuple[Allowance, ...]" = ()  # what is left of the windows, where that was looked at


class QuotaExhausted(Limited):
    """The quota has no room, and the request does not wait."""

    code = "quota_exhausted"


class QueueFull(Limited):
    """The waiting room is full of requests that are no less urgent, or a more urgent one took this place."""

    code = "queue_full"


class QueueTimeout(Limited):
    """The turn did not come within the time that it may wait."""

    code = "queue_timeout"


class DeadlineTooShort(Limited):
    """The turn would come after the request's deadline, so it is refused at once."""

    code = "deadline_too_short"


class ClientLimited(Limited):
    """This client has asked more often than ``clients.rate`` allows."""

    code = "client_limited"


class Unavailable(KnowalledgeError):
    """Not now, or not here."""

    code = "unavailable"


class CircuitOpen(Unavailable):
    """Every target of the model is resting after failures."""

    code = "circuit_open"


class ShuttingDown(Unavailable):
    """This replica is ending; another one will answer."""

    code = "shutting_down"


class HostExhausted(Unavailable):
    """This replica has no file descriptors, ports or memory left for a connection; the provider is not at fault."""

    code = "host_exhausted"


class DatabaseUnavailable(Unavailable):
    """The database does not answer."""

    code = "database_unavailable"


class CacheMiss(Unavailable):
    """Asked with ``cache: only``, and no answer is kept."""

    code = "cache_miss"


class ClientGone(KnowalledgeError):
    """Nobody is left to answer; seen in metrics only."""

    code = "client_gone"


class ProviderError(KnowalledgeError):
    """The provider did not do its part."""

    code = "provider_error"


class ProviderRateLimited(ProviderError):
    """The provider answered 429; ``quota_id`` is Google's QuotaFailure quotaId where it was given, else empty."""

    code = "provider_rate_limited"

    def __init__(self, message: str, *, retry_after: float | None = None, quota_id: str = "") -> None:
        super().__init__(message, retry_after=retry_after)
        self.quota_id = quota_id


class ProviderUnavailable(ProviderError):
    """The provider refused the connection, broke it off, or answered 5xx; ``status`` is 0 if there was none."""

    code = "provider_unavailable"
    status = 0

    def __init__(self, message: str, *, retry_after: float | None = None, status: int = 0) -> None:
        super().__init__(message, retry_after=retry_after)
        if status:
            self.status = status


class ProviderTimeout(ProviderError):
    """The provider did not answer within the request's time."""

    code = "provider_timeout"


class ProviderGarbage(ProviderError):
    """The answer cannot be read, or ends in the middle."""

    code = "provider_garbage"


class ProviderAuth(ProviderError):
    """The gateway's own credentials do not work, or (status 403) not for this call."""

    code = "provider_auth"
    status = 401

    def __init__(self, message: str, *, retry_after: float | None = None, status: int = 401) -> None:
        super().__init__(message, retry_after=retry_after)
        if status != 401:
            self.status = status


def release_frames(error: BaseException) -> None:
    """Drop the stack of an error that has been answered, and of its causes.

    Its frames keep whole bodies alive, mostly in a circle that only a full collection would free.
    """
    current: BaseException | None = error
    for _ in range(20):
        if current is None:
            return
        current.__traceback__ = None
        current = current.__cause__ or current.__context__
