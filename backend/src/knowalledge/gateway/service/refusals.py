"""What the quota's refusals and the ends of a wait mean to the caller: one error for each."""

from collections.abc import Callable, Iterable, Mapping

from knowalledge.core import errors
from knowalledge.core.limits import Allowance
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import WindowStatus
from knowalledge.quota.ports import Refused

REFUSALS: Mapping[RefusalReason, tuple[type[errors.Limited], str]] = {
    RefusalReason.QUOTA: (errors.QuotaExhausted, "the quota is spent"),
    RefusalReason.DEADLINE: (errors.DeadlineTooShort, "its turn would come after its deadline"),
    RefusalReason.FULL: (errors.QueueFull, "the waiting room is full"),
}
# By how the place was lost, given the seconds until its turn would have come. A grant is no error.
LOST_PLACES: Mapping[QueueOutcome, Callable[[float], errors.KnowalledgeError]] = {
    QueueOutcome.SHED: lambda eta_s: errors.QueueFull(
        "a more urgent request took this place", retry_after=eta_s
    ),
    QueueOutcome.TIMED_OUT: lambda eta_s: errors.QueueTimeout(
        "its turn did not come in time", retry_after=eta_s
    ),
    QueueOutcome.SHUTTING_DOWN: lambda _: errors.ShuttingDown(
        "this replica is shutting down", retry_after=1.0
    ),
    QueueOutcome.REPLICA_LOST: lambda eta_s: errors.QueueTimeout("its place was lost", retry_after=eta_s),
    QueueOutcome.CANCELLED: lambda _: errors.ClientGone("the client left"),
}


def refusal_error(refused: Refused) -> errors.Limited:
    """The error for a request that got neither quota nor a place; it says when to come back."""
    kind, why = REFUSALS[refused.reason]
    error = kind(f"{why}: {refused.window or 'closed by the provider'}", retry_after=refused.wait_s)
    error.allowances = allowances(refused.window_status)
    return error


def allowances(windows: Iterable[WindowStatus]) -> tuple[Allowance, ...]:
    """What is left of each window, for the RateLimit headers."""
    return tuple(
        Allowance(
            it.window.name,
            it.limit,
            max(0, it.limit - it.used),
            it.window.span_s,
            int(it.resets_s),
            it.window.count.value,
        )
        for it in windows
    )
