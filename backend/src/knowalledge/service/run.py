"""One request's way through the targets: reserve, ask, end; once more elsewhere if that may help.

Retries belong to this file alone: the adapters never retry. A request is tried again only while the caller has seen
nothing of an answer, and not after a timeout, when there is no patience left to try with.
"""

from collections.abc import Generator, Iterable, Mapping
from difflib import get_close_matches
from types import TracebackType
from typing import Self

from msgspec import Struct

from knowalledge.domain import errors as e
from knowalledge.domain.estimate import Estimator, Guess
from knowalledge.domain.model import (
    Allowance,
    Answer,
    Completion,
    Delta,
    Event,
    Finish,
    Request,
    Started,
    Text,
    ToolCall,
    Usage,
)
from knowalledge.domain.outcomes import Outcome, outcome_of
from knowalledge.domain.ports import Clock, Decision, Provider, QuotaStore, Record, Reservation, Telemetry
from knowalledge.domain.quota import Level, Need
from knowalledge.domain.routing import Breaker, Candidate, headroom, order

# A 429 without a hint closes the target this long: long enough not to hammer, short enough to lose little.
BARE_429_S = 1.0
# A provider's hint is believed up to this; one that names more is asked again after it.
LONGEST_HINT_S = 86_400.0
# Tries of one request, each at another target, the first included.
MAX_TRIES = 4


class Route(Struct, frozen=True):
    """One target of a model, ready to be asked."""

    name: str
    tier: int
    provider: Provider


class Plan(Struct, frozen=True):
    """A model that clients may name: its targets, and the models to fall back to."""

    name: str
    routes: tuple[Route, ...]
    fallback: tuple[str, ...] = ()


class Deck(Struct, frozen=True):
    """All that a run works with; one per process. The mappings are the process' own memory of its targets."""

    plans: Mapping[str, Plan]
    default_model: str
    quota: QuotaStore
    clock: Clock
    telemetry: Telemetry
    timeout_s: float
    estimator: Estimator
    breakers: Mapping[str, Breaker]
    headroom: dict[str, float]  # by target, as of its last decision

    def plan(self, model: str) -> Plan:
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
    route: Route
    reservation: Reservation
    guess: Guess
    decision: Decision
    reason: str
    began: float  # monotonic


class Run:
    """One request while it runs. As a context it writes the one record at the end, whichever way it ends."""

    def __init__(self, deck: Deck, request: Request) -> None:
        self._deck = deck
        self._request = request
        self._started = deck.clock.monotonic()
        self._deadline = self._started + (request.timeout_s or deck.timeout_s)
        self._tries = 0
        self._failure: e.ProviderError | None = None
        self._failed: set[str] = set()  # targets not to be asked again
        self._first_token = 0.0
        self._texts: list[str] = []  # of the stream that is running, so far ...
        self._usage: Usage | None = None  # ... and what the provider has counted of it
        self._spent = Usage()
        self._answer: Answer | None = None
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
                request_id=self._request.id,
                model=answer.model if answer else name if name in deck.plans else "unknown",
                target=self.grant.route.name if self.grant else "",
                outcome=Outcome.OK if error is None else outcome_of(error),
                priority=self._request.priority,
                seconds=deck.clock.monotonic() - self._started,
                usage=self._spent,
                first_token_s=self._first_token - self._started if self._first_token else None,
                error="" if error is None else getattr(error, "code", type(error).__name__),
            )
        )

    def reserve(self) -> tuple[Grant, float]:
        """Quota of the best target that has room now, and the seconds left to ask it.

        Raises what the last target said when there is nowhere left to go, else when the quota will have room.
        """
        deck = self._deck
        plan = deck.plan(self._request.model)
        self._tries += 1
        now = deck.clock.monotonic()
        if now >= self._deadline:
            raise self._failure or e.ProviderTimeout("the deadline passed before an answer came")
        wait, window, rest = float("inf"), "", float("inf")
        for model in (plan.name, *plan.fallback):
            guess = deck.estimator.guess(model, self._request.prompt)
            routes = {route.name: route for route in deck.plans[model].routes}
            for candidate in self._ordered(routes.values()):
                if candidate.name in self._failed:
                    continue
                breaker = deck.breakers[candidate.name]
                resting = breaker.wait(now)
                if resting > 0:
                    rest = min(rest, resting)
                    continue
                decision = deck.quota.reserve(candidate.name, guess.need)
                deck.headroom[candidate.name] = headroom(decision.levels)
                if decision.reservation is not None:
                    breaker.asked(now)
                    reason = f"tier {candidate.tier}, headroom {candidate.headroom:.0%}"
                    grant = Grant(
                        model, routes[candidate.name], decision.reservation, guess, decision, reason, now
                    )
                    self.grant = grant
                    return grant, self._deadline - now
                if decision.wait_s < wait:
                    wait, window = decision.wait_s, decision.window
        if self._failure is not None:
            raise self._failure
        if wait < float("inf"):
            raise e.QuotaExhausted(
                f"the quota is spent: {window or 'closed by the provider'}", retry_after=wait
            )
        raise e.CircuitOpen("every target of this model is resting after failures", retry_after=rest)

    def _ordered(self, routes: Iterable[Route]) -> tuple[Candidate, ...]:
        known = self._deck.headroom
        return order(Candidate(route.name, route.tier, known.get(route.name, 1.0)) for route in routes)

    def follow(self, grant: Grant, timeout: float) -> Generator[Event, None, Completion]:
        """The events of one streamed call; returns the whole. Closing it closes the provider's connection."""
        chunks = grant.route.provider.stream(self._request.prompt, timeout)
        calls: list[ToolCall] = []
        finish, version = Finish.OTHER, ""
        try:
            for chunk in chunks:
                if not self._first_token:
                    self._first_token = self._deck.clock.monotonic()
                    yield Started(grant.model, grant.route.name, allowances(grant.decision.levels))
                self._usage = chunk.usage or self._usage
                version = chunk.model_version or version
                finish = chunk.finish or finish
                if chunk.text or chunk.tool_calls:
                    self._texts.append(chunk.text)
                    calls.extend(chunk.tool_calls)
                    yield Delta(chunk.text, chunk.tool_calls)
        finally:
            chunks.close()
        text = "".join(self._texts)
        parts: tuple[Text | ToolCall, ...] = ((Text(text),) if text else ()) + tuple(calls)
        return Completion(parts, finish, self._usage, version)

    def answered(self, completion: Completion) -> Answer:
        """The call ended well: settle by the truth, learn from it."""
        grant = self._granted()
        usage = self._spend(grant, completion.usage, completion.text)
        self._deck.breakers[grant.route.name].succeeded()
        self._told_upstream(grant, Outcome.OK)
        self._answer = Answer(
            id=self._request.id,
            model=grant.model,
            target=grant.route.name,
            completion=completion,
            usage=usage,
            degraded=grant.decision.degraded
            or grant.model != (self._request.model or self._deck.default_model),
            reason=grant.reason,
            allowances=allowances(grant.decision.levels),
        )
        return self._answer

    def lost(self, error: BaseException) -> None:
        """The call ended badly: end its reservation. Returns if another try may help, else raises ``error``."""
        grant = self._granted()
        deck, name, quota = self._deck, grant.route.name, self._deck.quota
        breaker = deck.breakers[name]
        self._told_upstream(grant, outcome_of(error))
        if isinstance(error, e.ProviderRateLimited):
            quota.release(grant.reservation)  # what it refuses, the provider does not count
            hint = BARE_429_S if error.retry_after is None else min(error.retry_after, LONGEST_HINT_S)
            quota.close_until(name, hint, error.quota_id)
            breaker.succeeded()
        elif isinstance(error, e.ProviderRejected | e.ProviderAuth):
            quota.release(grant.reservation)
            breaker.succeeded()
            raise error
        elif isinstance(error, e.ProviderError):
            # It may have been counted, so it stays counted.
            self._spend(grant, self._usage, "".join(self._texts))
            breaker.failed(deck.clock.monotonic())
        else:  # blocked content, or the client left: charge what was used
            self._spend(grant, self._usage, "".join(self._texts))
            breaker.left()
            raise error
        if self._first_token or isinstance(error, e.ProviderTimeout) or self._tries >= MAX_TRIES:
            raise error
        self._failure = error
        self._failed.add(name)

    def _spend(self, grant: Grant, usage: Usage | None, text: str) -> Usage:
        """Settle a reservation by what the provider counted, or by an estimate where it did not say."""
        deck = self._deck
        if usage is None:
            usage = Usage(grant.guess.need.input, deck.estimator.tokens(grant.guess, text))
        else:
            deck.estimator.learn(grant.guess, Need(usage.input, usage.generated))
        deck.quota.settle(grant.reservation, Need(usage.input, usage.generated))
        self._spent = usage
        return usage

    def _told_upstream(self, grant: Grant, outcome: Outcome) -> None:
        deck = self._deck
        deck.telemetry.upstream(grant.route.name, outcome, deck.clock.monotonic() - grant.began)

    def _granted(self) -> Grant:
        if self.grant is None:
            raise AssertionError("a call ended that was never granted")
        return self.grant


def allowances(levels: Iterable[Level]) -> tuple[Allowance, ...]:
    """What is left of each window, for the RateLimit headers."""
    return tuple(
        Allowance(
            level.window.name,
            level.window.limit,
            max(0, level.window.limit - level.used),
            level.window.span_s,
            int(level.resets_s),
        )
        for level in levels
    )
