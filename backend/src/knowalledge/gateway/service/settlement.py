"""The end of a provider call: what becomes of its reservation, and what is learnt from it."""

from msgspec.structs import replace

from knowalledge.core.errors import (
    HostExhausted,
    ProviderAuth,
    ProviderError,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
)
from knowalledge.core.trace_context import Trace
from knowalledge.gateway.domain.answer import Completion, Usage
from knowalledge.gateway.service.dispatcher import Dispatcher, Progress, ProviderCall
from knowalledge.gateway.service.tracing import trace_settlement
from knowalledge.quota.domain.window import TokenCost

# A 429 that names no time closes its target this long, in seconds: no hammering, and little is lost.
BARE_429_S = 1.0
# The same for a 429 that names a day's quota: it is not free in a second, but an operator may raise it.
DAY_429_S = 60.0
# A timeout is the target's fault only if the call had this share of the default timeout; a caller may ask for less.
WHOLE_TIME = 0.5
# The time that a 429 names is believed up to this many seconds; then the target is tried again.
MAX_RETRY_AFTER_S = 3600.0


def settle_success(dispatcher: Dispatcher, call: ProviderCall, completion: Completion, trace: Trace) -> Usage:
    """The call has its whole answer: charge what the provider counted, or an estimate if it did not count."""
    usage = completion.usage
    if usage is None:
        usage = _estimated(dispatcher, call, completion.text)
    else:
        _learn(dispatcher, call, usage, complete=True)
    _settle(dispatcher, call, usage, trace)
    if completion.usage is None:
        dispatcher.telemetry.record_uncounted(call.target.name)
    dispatcher.breakers[call.target.name].record_success()
    return usage


def settle_failure(
    dispatcher: Dispatcher, call: ProviderCall, error: BaseException, progress: Progress, trace: Trace
) -> Usage | None:
    """The call failed: charge what was or may have been used. None if nothing was, as far as is known."""
    breaker = dispatcher.breakers[call.target.name]
    match error:
        case ProviderRateLimited():
            _reject(dispatcher, call, error, trace)
            breaker.record_success()  # the target works; its quota is spent
            return None
        case ProviderRejected():
            _release(dispatcher, call, trace)
            breaker.record_success()  # the request is at fault
            return None
        case ProviderAuth():
            _release(dispatcher, call, trace)
            _record_failure(dispatcher, call, error)
            return None
        case ProviderError():  # the provider may have counted it, so it stays charged
            usage = _settle_partial(dispatcher, call, progress, trace)
            _record_failure(dispatcher, call, error)
            return usage
        case HostExhausted():  # nothing was sent
            _release(dispatcher, call, trace)
            breaker.record_abandoned()
            return None
        case _:  # blocked content, or the client left: it says nothing of the target
            usage = _settle_partial(dispatcher, call, progress, trace)
            breaker.record_abandoned()
            return usage


def _record_failure(dispatcher: Dispatcher, call: ProviderCall, error: ProviderError) -> None:
    """A strike against the target if the failure is surely its own, else a suspicion."""
    breaker, now = dispatcher.breakers[call.target.name], dispatcher.clock.monotonic()
    match error:
        case ProviderUnavailable(status=status) | ProviderAuth(status=status):
            certain = status not in (403, 500)
        case ProviderTimeout():
            certain = call.timeout_s >= dispatcher.timeout_s * WHOLE_TIME
        case _:
            certain = False
    if certain:
        breaker.record_failure(now)
    else:
        breaker.record_suspicion(now)


def _settle_partial(dispatcher: Dispatcher, call: ProviderCall, progress: Progress, trace: Trace) -> Usage:
    usage = progress.usage
    if usage is None:
        usage = _estimated(dispatcher, call, progress.text)
    else:
        _learn(dispatcher, call, usage, complete=False)
        if progress.text:  # more may have come after the last count
            output = dispatcher.estimator.count_output(call.estimate, progress.text)
            usage = replace(usage, output=max(usage.output, output))
    _settle(dispatcher, call, usage, trace)
    return usage


def _estimated(dispatcher: Dispatcher, call: ProviderCall, text: str) -> Usage:
    return Usage(call.estimate.cost.input, dispatcher.estimator.count_output(call.estimate, text))


def _learn(dispatcher: Dispatcher, call: ProviderCall, usage: Usage, complete: bool) -> None:
    dispatcher.estimator.learn(call.estimate, TokenCost(usage.input, usage.generated), complete)


def _settle(dispatcher: Dispatcher, call: ProviderCall, usage: Usage, trace: Trace) -> None:
    actual = TokenCost(usage.input, usage.generated)
    began = dispatcher.clock.monotonic() if trace.live else 0.0
    dispatcher.quota.settle(call.granted.reservation, actual)
    if trace.live:
        trace_settlement(trace, began, call, "settled", actual)
    dispatcher.telemetry.record_settlement(call.target.name, call.estimate.cost, actual)


def _release(dispatcher: Dispatcher, call: ProviderCall, trace: Trace) -> None:
    began = dispatcher.clock.monotonic()
    dispatcher.quota.release(call.granted.reservation)
    if trace.live:
        trace_settlement(trace, began, call, "released")


def _reject(dispatcher: Dispatcher, call: ProviderCall, error: ProviderRateLimited, trace: Trace) -> None:
    """Close the target's gate before releasing, or the freed quota would admit a waiter that meets the same 429."""
    target, seconds = call.target.name, error.retry_after
    if seconds is None:
        seconds = DAY_429_S if "PerDay" in error.quota_id else BARE_429_S
    try:
        dispatcher.quota.close_gate(target, min(seconds, MAX_RETRY_AFTER_S), error.quota_id)
    finally:
        began = dispatcher.clock.monotonic()
        dispatcher.quota.release_rejected(call.granted.reservation)  # the provider does not count it
        if trace.live:
            trace_settlement(trace, began, call, "refused")
