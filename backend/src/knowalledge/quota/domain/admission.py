"""The wait queue of one target joined to its ledger: a grant to a waiter and the charge of its quota are one step.

Plain arithmetic: moments are whole microseconds and come in as arguments; the Lua scripts repeat it.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import floor

from msgspec import Struct

from knowalledge.core.context import Priority
from knowalledge.quota.domain.ledger import Charge, Ledger, Shortage
from knowalledge.quota.domain.queue import QueueRules, Waiter, WaitQueue
from knowalledge.quota.domain.window import (
    NO_BACKLOG,
    SECOND,
    Backlog,
    Moment,
    TokenCost,
    Window,
)

# Longest ETA (microseconds) of a request that fits as soon as answers under way release what is expected of them.
SOON = SECOND
# Grants of one dispatch; the rest follows at once in another.
BATCH_SIZE = 64


class RefusalReason(StrEnum):
    """Why a newcomer got neither quota nor a place."""

    QUOTA = "quota"  # the quota is spent, and it does not queue
    DEADLINE = "deadline"  # its turn would come after its deadline
    FULL = "full"  # the queue is full, and it may displace none


class Admitted(Struct, frozen=True):
    """Charged now."""

    charge: Charge


class Enqueued(Struct, frozen=True):
    """A place in the queue."""

    position: int  # from 1
    eta_s: float
    shed: Waiter | None = None  # removed to make room


class Rejected(Struct, frozen=True):
    """Neither quota nor a place."""

    reason: RefusalReason
    wait_s: float  # seconds until an equal request would be granted
    window: str


Admission = Admitted | Enqueued | Rejected


class Positions(Struct, frozen=True):
    """Where waiters stand. ETAs between those of the first and the last are interpolated."""

    first_eta_s: float
    last_eta_s: float
    by_id: Mapping[str, int]  # from 1
    waiting: int

    def eta_s(self, position: int) -> float:
        part = (position - 1) / max(1, self.waiting - 1)
        return self.first_eta_s + (self.last_eta_s - self.first_eta_s) * part


class AdmissionController:
    """One target's ledger and wait queue."""

    def __init__(self, windows: tuple[Window, ...], rules: QueueRules) -> None:
        self.queue = WaitQueue(rules)
        self.ledger = Ledger(windows, self.queue.set_back)

    def admit(self, at: Moment, waiter: Waiter, patience_s: float) -> Admission:
        """Charge now, or take a place, or reject. With a patience of 0 a request does not queue."""
        self.ledger.advance(at)
        if self.queue.may_bypass(self.ledger.latest, waiter.level):
            result = self.ledger.reserve(at, waiter.cost, self.queue.rules.policy(waiter.level))
            if isinstance(result, Charge):
                self.queue.record_bypass(self.ledger.latest, waiter.level)
                return Admitted(result)
        backlog = self.queue.backlog(waiter)
        eta, window = self._eta(at, waiter, backlog)
        patience = int(patience_s * SECOND)
        if patience <= 0:
            return Rejected(RefusalReason.QUOTA, eta / SECOND, window)
        if eta > patience:
            in_turns = self.queue.backlog_in_turns(waiter)
            if in_turns == backlog or self._eta(at, waiter, in_turns)[0] > patience:
                return Rejected(RefusalReason.DEADLINE, eta / SECOND, window)
        entered, shed = self.queue.enter(waiter)
        if not entered:
            return Rejected(RefusalReason.FULL, eta / SECOND, window)
        return Enqueued(backlog.count + 1, eta / SECOND, shed)

    def eta_s(self, at: Moment, waiter: Waiter) -> float:
        """Seconds until the turn of a waiter or a newcomer."""
        self.ledger.advance(at)
        return self._eta(at, waiter, self.queue.backlog(waiter))[0] / SECOND

    def _eta(self, at: Moment, waiter: Waiter, backlog: Backlog) -> tuple[float, str]:
        """Microseconds until the turn of a request with this backlog, and the window that it waits for.

        The backlog, and what is being answered, will release what recent answers released.
        """
        policy, ratio = self.queue.rules.policy(waiter.level), self.ledger.output_ratio
        cost = TokenCost(backlog.cost.input, floor(backlog.cost.output * ratio))
        wait, window = self.ledger.wait(at, waiter.cost, policy, Backlog(backlog.count, cost, 1 - ratio))
        if not wait:
            wait, window = self.ledger.wait(at, waiter.cost, policy, backlog)
            wait = min(wait, SOON)
        return wait * self.queue.slowdown(self.ledger.latest, waiter.level), window

    def positions(self, at: Moment) -> Positions:
        """Where every waiter stands."""
        self.ledger.advance(at)
        head = self.queue.next(self.ledger.latest)
        if head is None:
            return Positions(0.0, 0.0, {}, 0)
        first_eta, _ = self._eta(at, head, NO_BACKLOG)
        bottom = max(level for level in Priority if self.queue.size(level))
        newcomer = Waiter("", bottom, "", TokenCost(0, 0), at.now)
        backlog = self.queue.backlog(newcomer)
        last_eta, _ = self._eta(at, newcomer, Backlog(backlog.count - 1, backlog.cost))
        return Positions(first_eta / SECOND, last_eta / SECOND, self.queue.positions(), len(self.queue))

    def dispatch(self, at: Moment) -> tuple[list[tuple[Waiter, Charge]], float]:
        """Grant what fits, in order; and the seconds until the next would fit, 0 if none waits."""
        granted: list[tuple[Waiter, Charge]] = []
        self.ledger.advance(at)
        while len(granted) < BATCH_SIZE:
            waiter = self.queue.next(self.ledger.latest)
            if waiter is None:
                return granted, 0.0
            result = self.ledger.reserve(at, waiter.cost, self.queue.rules.policy(waiter.level))
            if isinstance(result, Shortage):
                return granted, result.wait_s
            self.queue.record_grant(self.ledger.latest, waiter)
            granted.append((waiter, result))
        return granted, 1 / SECOND
