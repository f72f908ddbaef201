"""One request's execution: admission, a provider's call and its settlement, and again if that may help."""

from collections.abc import Generator
from types import TracebackType
from typing import Self, TypeVar, cast

from knowalledge.core.context import RequestContext
from knowalledge.core.errors import (
    CircuitOpen,
    InvalidRequest,
    KnowalledgeError,
    Limited,
    NeverFits,
    ProviderError,
    ProviderTimeout,
    release_frames,
)
from knowalledge.gateway.domain.answer import Answer, CacheInfo, Completion, QueueInfo, Usage
from knowalledge.gateway.domain.events import Event, Started
from knowalledge.gateway.domain.outcomes import Outcome, outcome_of
from knowalledge.gateway.domain.request import CacheMode, Request
from knowalledge.gateway.service.admission import Admission
from knowalledge.gateway.service.attempts import Attempts
from knowalledge.gateway.service.catalog import plain_name
from knowalledge.gateway.service.dispatcher import NO_PROGRESS, Dispatcher, Progress, ProviderCall
from knowalledge.gateway.service.recording import NO_USAGE, error_code, record_of
from knowalledge.gateway.service.refusals import allowances
from knowalledge.gateway.service.settlement import settle_failure, settle_success
from knowalledge.gateway.service.tracing import trace_attempt, trace_wait

T = TypeVar("T")


def result_of(steps: Generator[object, None, T]) -> T:
    """What a generator returns, for a caller that needs nothing of what it yields."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("T", end.value)


class RequestExecution:
    """One request while it runs: acquire a call, make it, then ``succeed`` or ``handle_failure``, until one succeeds.

    As a context manager it writes the request's record, however the request ends.
    """

    __slots__ = (
        "_admission",
        "_attempts",
        "_context",
        "_dispatcher",
        "_first_token_at",
        "_model",
        "_operation",
        "_request",
        "_started",
        "_target",
        "_usage",
    )

    def __init__(
        self, dispatcher: Dispatcher, context: RequestContext, request: Request, operation: str = "chat"
    ) -> None:
        """``operation`` is chat or embeddings, for the trace."""
        self._dispatcher, self._context = dispatcher, context
        self._request, self._operation = request, operation
        self._started = dispatcher.clock.monotonic()
        deadline = self._started + (context.timeout_s or dispatcher.timeout_s)
        self._admission = Admission(dispatcher, context, request.prompt, deadline)
        self._attempts = Attempts(dispatcher.retry_budget)
        # For the record: what is known of the last call.
        self._model = self._target = ""
        self._usage = NO_USAGE
        self._first_token_at = 0.0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        dispatcher, admission, started = self._dispatcher, self._admission, self._started
        dispatcher.telemetry.record_request(
            record_of(
                self._context,
                self._model or dispatcher.catalog.label(self._request.model),
                dispatcher.clock.monotonic() - started,
                error=error,
                target=self._target,
                usage=self._usage,
                waited_s=admission.waited_s,
                queue_outcome=admission.outcome,
                first_token_s=self._first_token_at - started if self._first_token_at else None,
            )
        )

    def acquire(self) -> Generator[list[Event], None, ProviderCall]:
        """The next call of a provider, with its quota in hand; yields positions in queues.

        The model's fallbacks are tried when none of its own targets can take the request in time. Raises the
        error of the first model's targets if no model can, or ``ProviderTimeout`` past the deadline.
        """
        return self._acquire_traced() if self._context.trace.live else self._acquire()

    def _acquire_traced(self) -> Generator[list[Event], None, ProviderCall]:
        admission, context = self._admission, self._context
        waited_before, began = admission.waited_s, self._dispatcher.clock.monotonic()
        call, code = None, ""
        try:
            call = yield from self._acquire()
            return call
        except BaseException as error:  # also of a client that left
            code = error_code(error)
            raise
        finally:
            waited_s = admission.waited_s - waited_before
            trace_wait(
                context.trace,
                began,
                call,
                context.priority,
                admission.position if waited_s else 0,
                waited_s,
                (f"{it.target.name}: {refused.reason}" for it, refused in admission.refused),
                code,
            )

    def _acquire(self) -> Generator[list[Event], None, ProviderCall]:
        dispatcher, admission, attempts = self._dispatcher, self._admission, self._attempts
        attempts.begin()
        if admission.time_left() <= 0:
            raise attempts.error or ProviderTimeout("the deadline passed before an answer came")
        admission.refused.clear()
        refused: KnowalledgeError | None = None
        rest_s = float("inf")
        for routes in dispatcher.catalog.chain(self._request.model):
            candidates, resting_s = dispatcher.candidates(
                routes, self._context, self._request.prompt, attempts.excluded
            )
            rest_s = min(rest_s, resting_s)
            if not candidates:
                continue
            try:
                candidate, granted = yield from admission.admit(candidates, attempts.error)
            except (Limited, NeverFits, ProviderError) as error:
                refused = refused or error
                continue
            now, target = dispatcher.clock.monotonic(), candidate.target
            dispatcher.breakers[target.name].record_call(now)
            self._target = target.name
            return ProviderCall(
                routes.name,
                target,
                candidate.estimate,
                granted,
                candidate.reason,
                now,
                admission.deadline - now,
            )
        raise refused or attempts.error or self._no_candidate(rest_s)

    def _no_candidate(self, rest_s: float) -> KnowalledgeError:
        """Why no target may be called: all rest, or none of them takes what the client wrote."""
        source = self._request.prompt.source
        if rest_s == float("inf") and source is not None and source.untranslatable[0]:
            param, reason = source.untranslatable
            return InvalidRequest(reason, param=param)
        return CircuitOpen("every target of this model is resting after failures", retry_after=rest_s)

    def started(self, call: ProviderCall) -> Started:
        """The event that a streamed answer begins with."""
        return Started(
            call.model,
            call.target.name,
            allowances(call.granted.window_status),
            self._is_degraded(call),
            call.reason,
            self._cache_info(),
        )

    def succeed(self, call: ProviderCall, completion: Completion, first_token_at: float = 0.0) -> Answer:
        """The call has its whole answer: settle it. ``first_token_at`` is monotonic, 0 if it was not streamed."""
        self._first_token_at = first_token_at
        self._record_attempt(call, Outcome.OK, completion.usage, first_token_at, completion)
        self._usage = settle_success(self._dispatcher, call, completion, self._context.trace)
        self._model = call.model
        admission = self._admission
        return Answer(
            id=self._context.request_id,
            model=call.model,
            target=call.target.name,
            completion=completion,
            usage=self._usage,
            cache=self._cache_info(),
            degraded=self._is_degraded(call),
            queue=QueueInfo(round(admission.waited_s * 1000), admission.position),
            reason=call.reason,
            allowances=allowances(call.granted.window_status),
        )

    def handle_failure(
        self, call: ProviderCall, error: BaseException, progress: Progress = NO_PROGRESS
    ) -> None:
        """The call failed: end its reservation. Returns if another call may help, else raises ``error``."""
        self._first_token_at = progress.first_token_at
        self._record_attempt(call, outcome_of(error), progress.usage, progress.first_token_at, error=error)
        usage = settle_failure(self._dispatcher, call, error, progress, self._context.trace)
        if usage is not None:
            self._usage = usage
        if not self._attempts.may_retry(call.target.name, error, progress.first_token_at > 0):
            raise error
        release_frames(error)

    def _record_attempt(
        self,
        call: ProviderCall,
        outcome: Outcome,
        usage: Usage | None,
        first_token_at: float,
        completion: Completion | None = None,
        error: BaseException | None = None,
    ) -> None:
        dispatcher, trace, target = self._dispatcher, self._context.trace, call.target
        dispatcher.telemetry.record_attempt(target.name, outcome, dispatcher.clock.monotonic() - call.began)
        if trace.live:
            trace_attempt(
                trace,
                call,
                self._attempts.calls - 1,
                outcome,
                self._operation,
                usage,
                first_token_at,
                completion,
                getattr(error, "quota_id", ""),
                error_code(error) if error else "",
            )

    def _is_degraded(self, call: ProviderCall) -> bool:
        """Whether a fallback model answers, or the quota was counted without Redis."""
        wanted = self._request.model or self._dispatcher.catalog.default
        return call.granted.degraded or (call.model != wanted and call.model != plain_name(wanted))

    def _cache_info(self) -> CacheInfo:
        return CacheInfo("bypass" if self._request.cache is CacheMode.BYPASS else "miss")
