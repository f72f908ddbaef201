"""One request's admission: quota of the best target at once, or after a wait in its queue."""

from collections.abc import Generator
from typing import assert_never

from msgspec.structs import replace

from knowalledge.core.context import RequestContext
from knowalledge.core.errors import KnowalledgeError, NeverFits, ProviderError
from knowalledge.gateway.domain.events import Event, QueuePosition
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.domain.routing import headroom
from knowalledge.gateway.service.dispatcher import Dispatcher
from knowalledge.gateway.service.refusals import LOST_PLACES, refusal_error
from knowalledge.gateway.service.selection import Candidate
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.domain.window import TokenCost
from knowalledge.quota.ports import (
    Decision,
    Dequeued,
    Granted,
    Queued,
    Refused,
    Requeue,
    ReservationRequest,
    Ticket,
    WaitResult,
)

# Of the time until its deadline a request may spend this share in queues; the rest is for the answer.
WAIT_SHARE = 0.8
# A waiting request's position is read this often, in seconds, and yielded if it has changed.
POSITION_EVERY_S = 1.0

_Admitted = tuple[Candidate, Granted]


class Admission:
    """Gets a request its grants, one for each call of a provider, and keeps what its waits were like."""

    __slots__ = (
        "_context",
        "_dispatcher",
        "_prompt",
        "deadline",
        "outcome",
        "position",
        "refused",
        "waited_s",
    )

    def __init__(
        self, dispatcher: Dispatcher, context: RequestContext, prompt: Prompt, deadline: float
    ) -> None:
        """``deadline`` is monotonic, in seconds."""
        self._dispatcher, self._context = dispatcher, context
        self._prompt = prompt
        self.deadline = deadline
        self.waited_s = 0.0  # in queues, over all calls
        self.position = 0  # of the first entry into a queue; 0: never queued
        self.outcome: QueueOutcome | None = None  # of the last wait
        self.refused: list[tuple[Candidate, Refused]] = []  # when none had quota; of the current call

    def time_left(self) -> float:
        """Seconds until the deadline."""
        return self.deadline - self._dispatcher.clock.monotonic()

    def admit(
        self, candidates: list[Candidate], failure: ProviderError | None
    ) -> Generator[list[Event], None, _Admitted]:
        """A grant at one of a model's candidates. Yields the position in the queue whenever it changes.

        Raises ``failure``, the last provider's if there was one, else the quota's refusal; ``NeverFits`` if the
        request is larger than a window of every candidate; or how the place in the queue was lost.
        """
        candidate, decision = self._reserve_best(candidates)
        if isinstance(decision, Granted):
            return candidate, decision
        return (yield from self._queue(candidate, decision, failure))

    def _patience(self) -> float:
        """Seconds that the request may still wait."""
        return min(self._dispatcher.patience_s - self.waited_s, self.time_left() * WAIT_SHARE)

    def _reserve_best(self, candidates: list[Candidate]) -> tuple[Candidate, Decision]:
        """The decision of the first candidate with quota, else of the one whose turn comes soonest."""
        patience_s = (
            self._patience() if len(candidates) == 1 else 0.0
        )  # a single one reserves or queues at once
        refusals: list[tuple[Candidate, Refused]] = []
        too_large: NeverFits | None = None
        for given in candidates:
            try:
                candidate, decision = self._reserve(given, patience_s)
            except NeverFits as error:
                too_large = too_large or error
                continue
            if not isinstance(decision, Refused):
                return candidate, decision
            self._dispatcher.telemetry.record_refusal(candidate.target.name, decision.reason)
            refusals.append((candidate, decision))
        self.refused.extend(refusals)
        if not refusals:
            raise too_large or AssertionError("there was no candidate")
        soonest, refused = min(refusals, key=lambda it: it[1].wait_s)
        if refused.reason is RefusalReason.QUOTA and self._patience() > 0:
            return self._reserve(soonest, self._patience())
        return soonest, refused

    def _reserve(
        self, candidate: Candidate, patience_s: float, arrived: int = 0
    ) -> tuple[Candidate, Decision]:
        """The quota's decision. The candidate's estimate is corrected where a window seems too small for it.

        Raises ``NeverFits`` only by the provider's own count: an estimate alone refuses nothing.
        """
        try:
            return candidate, self._decide(candidate, patience_s, arrived)
        except NeverFits as error:
            estimate = candidate.estimate
            try:
                counted = candidate.target.provider.count_tokens(self._prompt, self.time_left())
            except KnowalledgeError:
                raise error from None
            if counted >= estimate.cost.input:
                raise
            cost = TokenCost(max(1, counted), estimate.cost.output)
            candidate = replace(candidate, estimate=replace(estimate, cost=cost))
            return candidate, self._decide(candidate, patience_s, arrived)

    def _decide(self, candidate: Candidate, patience_s: float, arrived: int) -> Decision:
        dispatcher, context, target = self._dispatcher, self._context, candidate.target.name
        request = ReservationRequest(
            dispatcher.new_id(),  # never the request's own id, which a caller may have chosen
            candidate.estimate.cost,
            context.priority,
            context.principal.tenant,
            max(0.0, patience_s),
            arrived,
        )
        decision = dispatcher.quota.reserve(target, request)
        if decision.window_status:
            dispatcher.headroom[target] = headroom(decision.window_status)
        return decision

    def _queue(
        self, candidate: Candidate, decision: Queued | Refused, failure: ProviderError | None
    ) -> Generator[list[Event], None, _Admitted]:
        """Wait for the grant. Raises how the place was lost, or why there was none."""
        clock = self._dispatcher.clock
        began = clock.monotonic()
        current: Decision = decision
        try:
            while not isinstance(current, Granted):
                if isinstance(current, Refused):
                    raise failure or refusal_error(current)
                ticket = current.ticket
                self.position = self.position or ticket.position
                result = yield from self._wait(ticket, began + self._patience())
                match result:
                    case Granted():
                        current = result
                    case Requeue():
                        patience_s = self._patience() - (clock.monotonic() - began)
                        candidate, current = self._reserve(candidate, patience_s, ticket.arrived)
                    case Dequeued(outcome):
                        self.outcome = outcome
                        raise LOST_PLACES[outcome](ticket.eta_s)
                    case _:
                        assert_never(result)
            self.outcome = QueueOutcome.GRANTED
            return candidate, current
        finally:
            self.waited_s += clock.monotonic() - began

    def _wait(self, ticket: Ticket, until: float) -> Generator[list[Event], None, WaitResult]:
        """The end of a wait, which is at ``until`` (monotonic) at the latest."""
        clock = self._dispatcher.clock
        reported = None
        try:
            while True:
                left_s = until - clock.monotonic()
                if left_s <= 0 and ticket.leave(QueueOutcome.TIMED_OUT):
                    return Dequeued(QueueOutcome.TIMED_OUT)
                position = QueuePosition(ticket.position, round(ticket.eta_s, 1))
                if position != reported:
                    reported = position
                    yield [position]
                result = ticket.wait(min(left_s, POSITION_EVERY_S))
                if result is not None:
                    return result
        except BaseException:  # the client left
            self.outcome = QueueOutcome.CANCELLED
            if not ticket.leave(QueueOutcome.CANCELLED):
                result = ticket.wait(0)
                if isinstance(result, Granted):  # granted in this very moment: the next in the queue gets it
                    self._dispatcher.quota.release(result.reservation)
            raise
