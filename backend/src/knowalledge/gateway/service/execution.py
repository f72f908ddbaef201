"""One request's way through the targets: get quota, ask, end; once more if that may help.

Retries belong to this file alone: the adapters never retry. A request is tried again only while the caller has seen
nothing of an answer, within a budget that all requests share, and not after a timeout, when there is no patience left
to try with.
"""

from collections.abc import Callable, Generator, Iterable, Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import Self, TypeVar, assert_never, cast

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.core.context import RequestContext
from knowalledge.core.limits import Allowance
from knowalledge.gateway.domain.answer import Answer, CacheInfo, Completion, Finish, QueueInfo, Usage
from knowalledge.gateway.domain.estimate import Estimate, Estimator
from knowalledge.gateway.domain.events import Delta, Event, Started
from knowalledge.gateway.domain.events import Queued as QueuePosition
from knowalledge.gateway.domain.outcomes import Outcome, outcome_of
from knowalledge.gateway.domain.prompt import Text, ToolCall
from knowalledge.gateway.domain.request import CacheMode, Request
from knowalledge.gateway.domain.routing import Breaker, Candidate, RetryBudget, headroom, order
from knowalledge.gateway.ports import Provider, Record, Telemetry
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import TokenCost, WindowStatus
from knowalledge.quota.ports import (
    Decision,
    Dequeued,
    Granted,
    Queued,
    QuotaStore,
    Refused,
    Requeue,
    Reservation,
    ReservationRequest,
    Ticket,
    WaitResult,
)

# A 429 without a hint closes the target this long: long enough not to hammer, short enough to lose little.
BARE_429_S = 1.0
# The same for one that names a day's quota: it is not free again within a second, but somebody may raise it.
DAY_429_S = 60.0
# A provider's hint is believed up to this; one that names more is asked again after it.
LONGEST_HINT_S = 86_400.0
# Tries of one request, the first included.
MAX_TRIES = 4
# Of the time that is left to a request this much may be spent waiting; the rest is for the answer.
WAIT_SHARE = 0.8
# While a request waits, its caller hears of its place this often, if that has changed.
TELL_EVERY_S = 1.0


class Target(Struct, frozen=True):
    """One target of a model, ready to be asked."""

    name: str
    tier: int
    provider: Provider


class ModelRoutes(Struct, frozen=True):
    """A model that clients may name: its targets, and the models to fall back to."""

    name: str
    routes: tuple[Target, ...]
    fallback: tuple[str, ...] = ()


class Dispatcher(Struct, frozen=True):
    """All that a run works with; one per process. The mappings are the process' own memory of its targets."""

    plans: Mapping[str, ModelRoutes]
    default_model: str
    quota: QuotaStore
    clock: Clock
    new_id: Callable[[], str]
    telemetry: Telemetry
    timeout_s: float
    patience_s: float  # the longest wait in the waiting room
    retries: RetryBudget
    estimator: Estimator
    breakers: Mapping[str, Breaker]
    headroom: dict[str, float]  # by target, as of its last decision

    def plan(self, model: str) -> ModelRoutes:
        """The plan for a model's name; empty means the default. Raises ``UnknownModel`` naming the nearest."""
        plan = self.plans.get(model or self.default_model)
        if plan is None:
            near = get_close_matches(model[:200], list(self.plans), n=1, cutoff=0.0)
            hint = f"; the nearest known one is {near[0]!r}" if near else ""
            raise e.UnknownModel(f"unknown model{hint}", param="model")
        return plan


class Grant(Struct, frozen=True):
    """A target, and the quota in hand to ask it."""

    model: str
    route: Target
    reservation: Reservation
    guess: Estimate
    decision: Granted
    reason: str
    began: float  # monotonic


T = TypeVar("T")


def result_of(steps: Generator[object, None, T]) -> T:
    """What a generator returns, for a caller that does not listen to what it yields."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return cast("T", end.value)


class _Candidate(Struct, frozen=True):
    """A target that may be asked, and what for."""

    model: str
    route: Target
    guess: Estimate
    reason: str


class RequestExecution:
    """One request while it runs. As a context it writes the one record at the end, whichever way it ends."""

    def __init__(
        self, deck: Dispatcher, context: RequestContext, request: Request, operation: str = "chat"
    ) -> None:
        """``operation`` is chat or embeddings, for its trace."""
        self._deck = deck
        self._operation = operation
        self._context = context
        self._request = request
        self._started = deck.clock.monotonic()
        self._deadline = self._started + (context.timeout_s or deck.timeout_s)
        self._tries = 0
        self._failure: e.ProviderError | None = None
        self._failed: set[str] = set()  # targets not to be asked again
        self._first_token = 0.0
        self._texts: list[str] = []  # of the stream that is running, so far ...
        self._usage: Usage | None = None  # ... and what the provider has counted of it
        self._spent = Usage()
        self._answer: Answer | None = None
        self._waited = 0.0  # seconds in the waiting room
        self._position = 0  # the place it entered at
        self._passed: list[tuple[_Candidate, Refused]] = []  # targets without room, at the last try
        self._ending: QueueOutcome | None = None
        self.grant: Grant | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        deck, answer = self._deck, self._answer
        name = self._request.model or deck.default_model
        deck.telemetry.request(
            Record(
                request_id=self._context.request_id,
                model=answer.model if answer else name if name in deck.plans else "unknown",
                target=self.grant.route.name if self.grant else "",
                outcome=Outcome.OK if error is None else outcome_of(error),
                priority=self._context.priority,
                seconds=deck.clock.monotonic() - self._started,
                usage=self._spent,
                waited_s=self._waited,
                ending=self._ending,
                first_token_s=self._first_token - self._started if self._first_token else None,
                error="" if error is None else _code(error),
                trace=self._context.trace,
            )
        )

    def acquire(self) -> Generator[list[Event], None, tuple[Grant, float]]:
        """``_acquire``, of which the trace hears."""
        return self._traced() if self._context.trace.live else self._acquire()

    def _traced(self) -> Generator[list[Event], None, tuple[Grant, float]]:
        context, before, held = self._context, self._waited, self.grant
        began, code = self._deck.clock.monotonic(), ""
        try:
            return (yield from self._acquire())
        except BaseException as error:  # a caller that left is told of too
            code = _code(error)
            raise
        finally:
            grant = None if self.grant is held else self.grant
            waited = self._waited - before
            context.trace.waited(
                began,
                grant.route.name if grant else "",
                context.priority,
                self._position if waited else 0,
                waited,
                passed=tuple(f"{it.route.name}: {refused.reason}" for it, refused in self._passed),
                degraded=grant.decision.degraded if grant else False,
                error=code,
            )

    def _acquire(self) -> Generator[list[Event], None, tuple[Grant, float]]:
        """Quota of the best target, and the seconds left to ask it; yields its place while it waits for its turn.

        The models that it may fall back to are asked when no target of the one before can take it in time. Raises
        what the last target said when there is nowhere left to go, else when the first model will have room.
        """
        deck = self._deck
        self._tries += 1
        if self._tries == 1:
            deck.retries.called()
        if self._left() <= 0:
            raise self._failure or e.ProviderTimeout("the deadline passed before an answer came")
        models, resting = self._options()
        refused: e.KnowalledgeError | None = None
        self._passed = []
        for options in models:
            try:
                option, decision = self._best(options)
                if isinstance(decision, Granted):
                    granted = decision
                else:
                    option, granted = yield from self._queue(option, decision)
                break
            except (e.Limited, e.NeverFits, e.ProviderError) as error:
                refused = refused or error
        else:
            raise (
                refused
                or self._failure
                or e.CircuitOpen("every target of this model is resting after failures", retry_after=resting)
            )
        now = deck.clock.monotonic()
        deck.breakers[option.route.name].asked(now)
        self.grant = Grant(
            option.model, option.route, granted.reservation, option.guess, granted, option.reason, now
        )
        return self.grant, self._deadline - now

    def _left(self) -> float:
        return self._deadline - self._deck.clock.monotonic()

    def _patience(self) -> float:
        """How long it would still wait for its turn."""
        return min(self._deck.patience_s - self._waited, self._left() * WAIT_SHARE)

    def _options(self) -> tuple[list[list["_Candidate"]], float]:
        """By model, the targets that may be asked, best first; and the seconds until the first resting one may."""
        deck = self._deck
        plan = deck.plan(self._request.model)
        now, rest = deck.clock.monotonic(), float("inf")
        models = []
        for model in (plan.name, *plan.fallback):
            guess = deck.estimator.guess(model, self._request.prompt, self._context.principal.tenant)
            routes = {route.name: route for route in deck.plans[model].routes}
            found = []
            for candidate in self._ordered(routes.values()):
                if candidate.name in self._failed:
                    continue
                resting = deck.breakers[candidate.name].wait(now)
                if resting > 0:
                    rest = min(rest, resting)
                    continue
                reason = f"tier {candidate.tier}, headroom {candidate.headroom:.0%}"
                found.append(_Candidate(model, routes[candidate.name], guess, reason))
            if found:
                models.append(found)
        return models, rest

    def _best(self, options: list["_Candidate"]) -> tuple["_Candidate", Decision]:
        """The first in order that has room, else the one whose turn comes soonest; and what it said."""
        refusals: list[tuple[_Candidate, Refused]] = []
        never: e.NeverFits | None = None
        for option in options:
            try:
                # The only one is asked and waited for in one step.
                asked, decision = self._ask(option, self._patience() if len(options) == 1 else 0.0)
            except e.NeverFits as error:
                never = never or error
                continue
            if not isinstance(decision, Refused):
                return asked, decision
            self._deck.telemetry.refused(asked.route.name, decision.reason)
            refusals.append((asked, decision))
        self._passed.extend(refusals)
        if not refusals:
            raise never or AssertionError("no target was asked")
        soonest, refused = min(refusals, key=lambda it: it[1].wait_s)
        if refused.reason is RefusalReason.QUOTA and self._patience() > 0:
            return self._ask(soonest, self._patience())
        return soonest, refused

    def _ask(
        self, option: "_Candidate", patience_s: float, arrived: int = 0
    ) -> tuple["_Candidate", Decision]:
        """Raises ``NeverFits`` only by what the provider counts: an estimate alone refuses nothing."""
        try:
            return option, self._asked(option, patience_s, arrived)
        except e.NeverFits as never:
            try:
                counted = option.route.provider.count_tokens(self._request.prompt, self._left())
            except e.KnowalledgeError:
                raise never from None
            if counted >= option.guess.need.input:
                raise
            guess = replace(option.guess, need=TokenCost(max(1, counted), option.guess.need.output))
            option = replace(option, guess=guess)
            return option, self._asked(option, patience_s, arrived)

    def _asked(self, option: "_Candidate", patience_s: float, arrived: int) -> Decision:
        context = self._context
        reservation_request = ReservationRequest(
            self._deck.new_id(),  # never the request's own id, which the caller may have chosen
            option.guess.need,
            context.priority,
            context.principal.tenant,
            max(0.0, patience_s),
            arrived,
        )
        decision = self._deck.quota.reserve(option.route.name, reservation_request)
        if decision.window_status:
            self._deck.headroom[option.route.name] = headroom(decision.window_status)
        return decision

    def _queue(
        self, option: "_Candidate", decision: Queued | Refused
    ) -> Generator[list[Event], None, tuple["_Candidate", Granted]]:
        """Wait for the turn; the decision that grants it. Raises how the place was lost."""
        clock = self._deck.clock
        began = clock.monotonic()
        current: Decision = decision
        try:
            while not isinstance(current, Granted):
                if isinstance(current, Refused):
                    raise self._failure or _refused(current)
                ticket = current.ticket
                self._position = self._position or ticket.position
                result = yield from self._wait(ticket, began)
                match result:
                    case Granted():
                        current = result
                    case Requeue():
                        patience = self._patience() - (clock.monotonic() - began)
                        option, current = self._ask(option, patience, ticket.arrived)
                    case Dequeued(outcome):
                        self._ending = outcome
                        raise _ENDED[outcome](ticket.eta_s)
                    case _:
                        assert_never(result)
            self._ending = QueueOutcome.GRANTED
            return option, current
        finally:
            self._waited += clock.monotonic() - began

    def _wait(self, ticket: Ticket, began: float) -> Generator[list[Event], None, WaitResult]:
        """Until the ticket is over; tells its place whenever that changes."""
        clock = self._deck.clock
        told = None
        until = began + self._patience()
        try:
            while True:
                left = until - clock.monotonic()
                if left <= 0 and ticket.leave(QueueOutcome.TIMED_OUT):
                    return Dequeued(QueueOutcome.TIMED_OUT)
                place = QueuePosition(ticket.position, round(ticket.eta_s, 1))
                if place != told:
                    told = place
                    yield [place]
                result = ticket.wait(min(left, TELL_EVERY_S))
                if result is not None:
                    return result
        except BaseException:
            # The client left. If its turn came in this very moment, it goes to the next.
            self._ending = QueueOutcome.CANCELLED
            if not ticket.leave(QueueOutcome.CANCELLED):
                result = ticket.wait(0)
                if isinstance(result, Granted):
                    self._deck.quota.release(result.reservation)
            raise

    def _ordered(self, routes: Iterable[Target]) -> tuple[Candidate, ...]:
        known = self._deck.headroom
        return order(Candidate(route.name, route.tier, known.get(route.name, 1.0)) for route in routes)

    def follow(self, grant: Grant, timeout: float) -> Generator[list[Event], None, Completion]:
        """The events of one streamed call; returns the whole. Closing it closes the provider's connection."""
        batches = grant.route.provider.stream(self._request.prompt, timeout)
        calls: list[ToolCall] = []
        finish, version = Finish.OTHER, ""
        self._texts, self._usage = [], None  # a try before this one may have got so far
        try:
            for chunks in batches:
                events: list[Event] = []
                for chunk in chunks:
                    # What is no content, such as a count while the model thinks, does not stand in the way of another
                    # try.
                    if not self._first_token and (chunk.text or chunk.tool_calls or chunk.finish):
                        self._first_token = self._deck.clock.monotonic()
                        events.append(self._begun(grant))
                    self._usage = chunk.usage or self._usage
                    version = chunk.model_version or version
                    finish = chunk.finish or finish
                    if chunk.text or chunk.tool_calls:
                        self._texts.append(chunk.text)
                        calls.extend(chunk.tool_calls)
                        events.append(Delta(chunk.text, chunk.tool_calls))
                if events:
                    yield events
        finally:
            batches.close()
        text = "".join(self._texts)
        parts: tuple[Text | ToolCall, ...] = ((Text(text),) if text else ()) + tuple(calls)
        return Completion(parts, finish, self._usage, version)

    def _begun(self, grant: Grant) -> Started:
        return Started(
            grant.model,
            grant.route.name,
            allowances(grant.decision.window_status),
            self._second_best(grant),
            grant.reason,
            self._cache(),
        )

    def _cache(self) -> CacheInfo:
        return CacheInfo("bypass" if self._request.cache is CacheMode.BYPASS else "miss")

    def answered(self, completion: Completion) -> Answer:
        """The call ended well: settle by the truth, learn from it."""
        grant = self._granted()
        self._told_upstream(grant, Outcome.OK, completion)
        usage = self._spend(grant, completion.usage, completion.text, whole=True)
        if completion.usage is None:
            self._deck.telemetry.uncounted(grant.route.name)
        self._deck.breakers[grant.route.name].succeeded()
        self._answer = Answer(
            id=self._context.request_id,
            model=grant.model,
            target=grant.route.name,
            completion=completion,
            usage=usage,
            cache=self._cache(),
            degraded=self._second_best(grant),
            queue=QueueInfo(round(self._waited * 1000), self._position),
            reason=grant.reason,
            allowances=allowances(grant.decision.window_status),
        )
        return self._answer

    def lost(self, error: BaseException) -> None:
        """The call ended badly: end its reservation. Returns if another try may help, else raises ``error``."""
        grant = self._granted()
        deck, name, quota = self._deck, grant.route.name, self._deck.quota
        breaker = deck.breakers[name]
        self._told_upstream(grant, outcome_of(error), error=error)
        if isinstance(error, e.ProviderRateLimited):
            hint = error.retry_after
            if hint is None:
                hint = DAY_429_S if "PerDay" in error.quota_id else BARE_429_S
            hint = min(hint, LONGEST_HINT_S)
            # Closed first, or the place that comes free would send the next one into the same wall.
            try:
                quota.close_gate(name, hint, error.quota_id)
            finally:
                began = deck.clock.monotonic()
                quota.release_rejected(grant.reservation)  # what it refuses, the provider does not count
                self._context.trace.settled(began, name, "refused", grant.guess.need)
            breaker.succeeded()
        elif isinstance(error, e.ProviderRejected | e.ProviderAuth):
            began = deck.clock.monotonic()
            quota.release(grant.reservation)
            self._context.trace.settled(began, name, "released", grant.guess.need)
            if isinstance(error, e.ProviderRejected):  # the request is at fault, wherever it goes
                breaker.succeeded()
                raise error
            breaker.failed(deck.clock.monotonic())
        elif isinstance(error, e.ProviderError):
            # It may have been counted, so it stays counted.
            self._spend(grant, self._usage, "".join(self._texts))
            breaker.failed(deck.clock.monotonic())
        else:  # blocked content, or the client left: charge what was used
            self._spend(grant, self._usage, "".join(self._texts))
            breaker.left()
            raise error
        last = self._tries >= MAX_TRIES or not deck.retries.take()
        if self._first_token or isinstance(error, e.ProviderTimeout) or last:
            raise error
        self._failure = error
        if not isinstance(error, e.ProviderRateLimited):
            self._failed.add(name)  # one that is only closed may be waited for

    def _second_best(self, grant: Grant) -> bool:
        """Whether another model answers, or the quota was counted without Redis."""
        return grant.decision.degraded or grant.model != (self._request.model or self._deck.default_model)

    def _spend(self, grant: Grant, usage: Usage | None, text: str, whole: bool = False) -> Usage:
        """Settle a reservation by what the provider counted, or by an estimate where it did not say.

        A stream that did not come to its end may have said more than its last count.
        """
        deck = self._deck
        if usage is None:
            usage = Usage(grant.guess.need.input, deck.estimator.tokens(grant.guess, text))
        else:
            deck.estimator.learn(grant.guess, TokenCost(usage.input, usage.generated), whole)
            if not whole and text:
                usage = replace(usage, output=max(usage.output, deck.estimator.tokens(grant.guess, text)))
        true = TokenCost(usage.input, usage.generated)
        began = deck.clock.monotonic()
        deck.quota.settle(grant.reservation, true)
        self._context.trace.settled(began, grant.route.name, "settled", grant.guess.need, true)
        deck.telemetry.settled(grant.route.name, grant.guess.need, true)
        self._spent = usage
        return usage

    def _told_upstream(
        self,
        grant: Grant,
        outcome: Outcome,
        completion: Completion | None = None,
        error: BaseException | None = None,
    ) -> None:
        deck = self._deck
        deck.telemetry.upstream(grant.route.name, outcome, deck.clock.monotonic() - grant.began)
        if self._context.trace.live:
            self._context.trace.tried(
                grant.began,
                grant.route.name,
                grant.route.tier,
                grant.reason,
                self._tries - 1,
                outcome,
                operation=self._operation,
                usage=completion.usage if completion else self._usage,
                finish=completion.finish if completion else None,
                version=completion.model_version if completion else "",
                first_token=self._first_token,
                quota_id=getattr(error, "quota_id", ""),
                error=_code(error) if error else "",
            )

    def _granted(self) -> Grant:
        if self.grant is None:
            raise AssertionError("a call ended that was never granted")
        return self.grant


def _code(error: BaseException) -> str:
    code: str = getattr(error, "code", type(error).__name__)
    return code


_REFUSED: dict[RefusalReason, tuple[type[e.Limited], str]] = {
    RefusalReason.QUOTA: (e.QuotaExhausted, "the quota is spent"),
    RefusalReason.DEADLINE: (e.DeadlineTooShort, "its turn would come after its deadline"),
    RefusalReason.FULL: (e.QueueFull, "the waiting room is full"),
}


def _refused(refused: Refused) -> e.Limited:
    kind, why = _REFUSED[refused.reason]
    window = refused.window or "closed by the provider"
    error = kind(f"{why}: {window}", retry_after=refused.wait_s)
    error.allowances = allowances(refused.window_status)
    return error


_ENDED: dict[QueueOutcome, Callable[[float], e.KnowalledgeError]] = {
    QueueOutcome.SHED: lambda eta: e.QueueFull("a more urgent request took this place", retry_after=eta),
    QueueOutcome.TIMED_OUT: lambda eta: e.QueueTimeout("its turn did not come in time", retry_after=eta),
    QueueOutcome.SHUTTING_DOWN: lambda _: e.ShuttingDown("this replica is shutting down", retry_after=1.0),
    QueueOutcome.REPLICA_LOST: lambda eta: e.QueueTimeout("its place was lost", retry_after=eta),
    QueueOutcome.CANCELLED: lambda _: e.ClientGone("the client left"),
}


def allowances(levels: Iterable[WindowStatus]) -> tuple[Allowance, ...]:
    """What is left of each window, for the RateLimit headers."""
    return tuple(
        Allowance(
            level.window.name,
            level.limit,
            max(0, level.limit - level.used),
            level.window.span_s,
            int(level.resets_s),
            level.window.count.value,
        )
        for level in levels
    )
