"""The waiting room of one target, and the desk that joins it to the target's quota.

Order, from the outside in
    level    CRITICAL before HIGH before MEDIUM before LOW
    aging    but where the lowest level had none of the last ``AGED_EVERY`` - 1 grants, the next one goes to the oldest
             waiter of a lower level that has waited ``aging_s``: so LOW is served in bounded time and HIGH hardly
             notices, and not at all while LOW is served in its turn
    tenant   within a level, whoever was served the fewest weighted tokens (Virtual Token Counter,
             arxiv.org/abs/2401.00588); a tenant that comes back from idling starts at the level's minimum,
             without credit for the time it asked for nothing
    arrival  within a tenant, first come first served

A waiter leaves in exactly one way, an ``QueueOutcome``. Like the ledger this is plain arithmetic: moments are whole
microseconds and come in as arguments; the Lua scripts repeat it.
"""

from collections.abc import Mapping
from enum import StrEnum
from math import floor

from msgspec import Struct

from knowalledge.core.context import Priority
from knowalledge.quota.domain.ledger import Backlog, Charge, Ledger
from knowalledge.quota.domain.queue import QueueRules, Waiter, WaitQueue
from knowalledge.quota.domain.window import SECOND, Moment, TokenCost, Window

# One whose turn comes with what running answers are about to give back is told so many microseconds.
SOON = SECOND
# Grants in one go; what is left over follows at once in another.
BATCH = 64


class RefusalReason(StrEnum):
    """Why a newcomer got neither quota nor a place."""

    QUOTA = "quota"  # it would not wait
    DEADLINE = "deadline"  # its turn comes after its deadline
    FULL = "full"  # nobody below it to make room


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


class Places(Struct, frozen=True):
    """Where waiters stand; the times between the head's turn and the last one's are interpolated."""

    head_s: float
    last_s: float
    positions: Mapping[str, int]

    def eta_s(self, position: int, count: int) -> float:
        return self.head_s + (self.last_s - self.head_s) * (position - 1) / max(1, count - 1)


class AdmissionController:
    """A target's ledger and room as one: a grant to a waiter and the charge of its quota are one step."""

    def __init__(self, windows: tuple[Window, ...], rules: QueueRules) -> None:
        self.room = WaitQueue(rules)
        self.ledger = Ledger(windows, self.room.set_back)

    def admit(self, at: Moment, waiter: Waiter, patience_s: float) -> Admission:
        """Quota now, a place in the room, or a refusal. Without patience nobody waits."""
        self.ledger.advance(at)
        if self.room.passes(self.ledger.latest, waiter.level):
            verdict = self.ledger.reserve(at, waiter.need, self.room.rules.lane(waiter.level))
            if verdict.entry is not None:
                self.room.passed(self.ledger.latest, waiter.level)
                return Admitted(verdict.entry)
        before = self.room.before(waiter)
        eta, window = self._eta(at, waiter, *before)
        patience = int(patience_s * SECOND)
        if patience <= 0:
            return Rejected(RefusalReason.QUOTA, eta / SECOND, window)
        if eta > patience:
            turns = self.room.before_in_turns(waiter)
            if turns == before or self._eta(at, waiter, *turns)[0] > patience:
                return Rejected(RefusalReason.DEADLINE, eta / SECOND, window)
        admitted, shed = self.room.enter(waiter)
        if not admitted:
            return Rejected(RefusalReason.FULL, eta / SECOND, window)
        return Enqueued(before[0] + 1, eta / SECOND, shed)

    def place(self, at: Moment, waiter: Waiter) -> tuple[int, float, str]:
        """Position from 1, seconds until its turn, and the window that it waits for."""
        self.ledger.advance(at)
        count, need = self.room.before(waiter)
        eta, window = self._eta(at, waiter, count, need)
        return count + 1, eta / SECOND, window

    def _eta(self, at: Moment, waiter: Waiter, count: int, need: TokenCost) -> tuple[float, str]:
        """Microseconds until the turn of one that has so many before it, who need so much; and the window.

        Those before it, and those that are being answered, give back what answers gave back of late.
        """
        lane, outcome = self.room.rules.lane(waiter.level), self.ledger.outcome
        likely = Backlog(count, TokenCost(need.input, floor(need.output * outcome)), 1 - outcome)
        wait, window = self.ledger.wait(at, waiter.need, lane, likely)
        if not wait:
            wait, window = self.ledger.wait(at, waiter.need, lane, Backlog(count, need))
            wait = min(wait, SOON)
        return wait * self.room.slowed(self.ledger.latest, waiter.level), window

    def places(self, at: Moment) -> "Places":
        """Where everybody stands."""
        self.ledger.advance(at)
        head = self.room.next(self.ledger.latest)
        if head is None:
            return Places(0.0, 0.0, {})
        first, _ = self._eta(at, head, 0, TokenCost(0, 0))
        bottom = max(level for level in Priority if self.room.depth(level))
        behind = Waiter("", bottom, "", TokenCost(0, 0), at.now)
        count, need = self.room.before(behind)
        last, _ = self._eta(at, behind, count - 1, need)
        return Places(first / SECOND, last / SECOND, self.room.positions())

    def dispatch(self, at: Moment) -> tuple[list[tuple[Waiter, Charge]], float]:
        """Grant what fits, in order; and the seconds until the next in line would fit, 0 if nobody waits."""
        granted: list[tuple[Waiter, Charge]] = []
        self.ledger.advance(at)
        while len(granted) < BATCH:
            waiter = self.room.next(self.ledger.latest)
            if waiter is None:
                return granted, 0.0
            verdict = self.ledger.reserve(at, waiter.need, self.room.rules.lane(waiter.level))
            if verdict.entry is None:
                return granted, verdict.wait_s
            self.room.served(self.ledger.latest, waiter)
            granted.append((waiter, verdict.entry))
        return granted, 1 / SECOND
