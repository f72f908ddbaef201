"""The quota of one process: the pure desk under a real clock. Greenlets switch only at IO, so it needs no lock.

It is also the mirror of what this process has spent of a quota that replicas share, for the time when the shared
store cannot be asked (``record``, ``part``, ``join``).
"""

from collections.abc import Mapping
from typing import assert_never

import gevent
from gevent.event import Event
from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.core.context import Priority
from knowalledge.quota.domain.admission import AdmissionController, Admitted, Enqueued, Rejected
from knowalledge.quota.domain.calendar import Days
from knowalledge.quota.domain.ledger import Charge
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, Waiter
from knowalledge.quota.domain.window import (
    SECOND,
    Moment,
    TokenCost,
    Window,
    WindowStatus,
    cap,
    refuse_what_never_fits,
)
from knowalledge.quota.ports import (
    Decision,
    Dequeued,
    Granted,
    Queued,
    QueueStats,
    QuotaTotals,
    Refused,
    Requeue,
    Reservation,
    ReservationRequest,
)
from knowalledge.quota.ticket import WaitingTicket

REFRESH_S = 1.0  # how often waiters' positions are brought up to date


class Live(Struct, frozen=True):
    """A reservation that has not ended."""

    waiter: Waiter
    charge: Charge


class _Target:
    """A desk, and who waits at it."""

    def __init__(self, windows: tuple[Window, ...], rules: QueueRules) -> None:
        self.windows = windows
        self.days = Days(windows)
        self.desk = AdmissionController(windows, rules)
        self.live: dict[str, Live] = {}
        self.tickets: dict[str, WaitingTicket] = {}
        self.totals = QuotaTotals()
        self.changed = Event()  # something that the pump did not know when it went to sleep


class MemoryQuotaStore:
    """Implements ``QuotaStore`` in process; targets without windows are unlimited."""

    def __init__(
        self, windows: Mapping[str, tuple[Window, ...]], rules: QueueRules, clock: Clock, pumps: bool = True
    ) -> None:
        """``pumps`` is for tests: without, ``dispatch`` must be called when the head's turn comes."""
        self._pumps = pumps
        self._targets = {target: _Target(found, rules) for target, found in windows.items()}
        self._clock = clock
        self.skew_us = 0  # by how much the shared store's clock is ahead of this machine's

    def reserve(self, target: str, request: ReservationRequest) -> Decision:
        it = self._targets[target]
        refuse_what_never_fits(target, it.windows, request.cost)
        at = self._at(it)
        cost = cap(it.windows, request.cost)
        latest = it.desk.ledger.latest
        # The arrival at another store may be a moment that this one has not reached.
        arrived = min(request.arrived, latest) or latest
        waiter = Waiter(request.id, request.level, request.tenant, cost, arrived)
        admission = it.desk.admit(at, waiter, request.patience_s)
        status = it.desk.ledger.levels(at)
        match admission:
            case Admitted(charge):
                it.live[request.id] = Live(waiter, charge)
                return Granted(Reservation(target, request.id, cost), status)
            case Rejected(reason, wait_s, window):
                it.totals = replace(it.totals, refused=it.totals.refused + 1)
                return Refused(reason, wait_s, window, status)
            case Enqueued(position, eta_s, shed):
                if shed is not None:
                    it.tickets.pop(shed.id).end(Dequeued(QueueOutcome.SHED))
                ticket = WaitingTicket(lambda outcome: self._give_up(target, request.id, outcome))
                ticket.position, ticket.eta_s, ticket.arrived = position, eta_s, waiter.arrived
                if not it.tickets and self._pumps:
                    gevent.spawn(self._pump, target)
                it.tickets[request.id] = ticket
                it.changed.set()
                return Queued(ticket, status)
            case _:
                assert_never(admission)

    def settle(self, reservation: Reservation, actual: TokenCost) -> None:
        it = self._targets[reservation.target]
        at = self._at(it)
        live = it.live.pop(reservation.id, None)
        if live is not None:
            it.desk.ledger.settle(at, live.charge, actual)
            it.desk.room.correct(live.waiter, actual)
            it.totals = replace(
                it.totals,
                settled=it.totals.settled + 1,
                drift_input=it.totals.drift_input + actual.input - live.charge.need.input,
                drift_output=it.totals.drift_output + actual.output - live.charge.need.output,
            )
            self._freed(reservation.target)

    def release(self, reservation: Reservation) -> None:
        it = self._targets[reservation.target]
        at = self._at(it)
        live = it.live.pop(reservation.id, None)
        if live is not None:
            it.desk.ledger.release(at, live.charge)
            it.totals = replace(it.totals, released=it.totals.released + 1)
            self._freed(reservation.target)

    def release_rejected(self, reservation: Reservation) -> None:
        it = self._targets[reservation.target]
        at = self._at(it)
        live = it.live.pop(reservation.id, None)
        if live is not None:
            it.desk.ledger.refused(at, live.charge)
            it.totals = replace(it.totals, rejected=it.totals.rejected + 1)
            self._freed(reservation.target)

    def close_gate(self, target: str, seconds: float, window: str) -> None:
        it = self._targets[target]
        it.desk.ledger.close_until(self._at(it).now + int(seconds * SECOND), window)

    def window_status(self, target: str) -> tuple[WindowStatus, ...]:
        it = self._targets[target]
        return it.desk.ledger.levels(self._at(it))

    def totals(self, target: str) -> QuotaTotals:
        return self._targets[target].totals

    def queue_stats(self, target: str) -> tuple[QueueStats, ...]:
        it = self._targets[target]
        at = self._at(it)
        room, latest = it.desk.room, it.desk.ledger.latest
        found = []
        for level in Priority:
            oldest = room.oldest(level)
            newcomer = Waiter("", level, "", TokenCost(0, 0), latest)
            waited = 0.0 if oldest is None else (latest - oldest) / SECOND
            left = {ending: count for (of, ending), count in room.left.items() if of is level}
            eta = it.desk.place(at, newcomer)[1]
            crowds = room.crowds(latest, level, eta)
            found.append(QueueStats(level, room.depth(level), waited, eta, crowds, left))
        return tuple(found)

    def shut(self) -> None:
        """Hand everybody's place back: this process is going away."""
        for it in self._targets.values():
            for ticket in list(it.tickets.values()):
                ticket.leave(QueueOutcome.SHUTTING_DOWN)

    # -- those who wait --------------------------------------------------------------------------------------------

    def dispatch(self, target: str) -> float:
        """Grant what fits to those who wait; seconds until the next would fit, 0 if nobody waits."""
        it = self._targets[target]
        at = self._at(it)
        granted, wait = it.desk.dispatch(at)
        for waiter, charge in granted:
            it.live[waiter.id] = Live(waiter, charge)
            ticket = it.tickets.pop(waiter.id)
            ticket.end(Granted(Reservation(target, waiter.id, waiter.need), it.desk.ledger.levels(at)))
        return wait

    def _freed(self, target: str) -> None:
        if self._targets[target].tickets:
            self.dispatch(target)

    def _pump(self, target: str) -> None:
        """Dispatch whenever the head's turn comes, for as long as somebody waits."""
        it = self._targets[target]
        looked = self._clock.monotonic()
        while it.tickets:
            wait = self.dispatch(target)
            if self._clock.monotonic() - looked >= REFRESH_S:
                looked = self._clock.monotonic()
                places = it.desk.places(self._at(it))
                for key, position in places.positions.items():
                    ticket = it.tickets[key]
                    ticket.position = position
                    ticket.eta_s = places.eta_s(position, len(places.positions))
            it.changed.clear()
            it.changed.wait(min(wait, REFRESH_S) if it.tickets else 0)

    def _give_up(self, target: str, key: str, ending: QueueOutcome) -> None:
        it = self._targets[target]
        self._at(it)
        it.tickets.pop(key, None)
        if it.desk.room.leave(key, ending) is not None:
            self._freed(target)

    def _at(self, it: _Target) -> Moment:
        """Now. The ledger is brought to it, so that every call shows it the clock, as every script does."""
        at = it.days.at(int(self._clock.now() * SECOND) + self.skew_us)
        it.desk.ledger.advance(at)
        return at

    # -- as a mirror of a shared quota -----------------------------------------------------------------------------

    def record(self, target: str, waiter: Waiter) -> None:
        """The shared store has granted this."""
        it = self._targets[target]
        it.live[waiter.id] = Live(waiter, it.desk.ledger.charge(self._at(it), waiter.need))

    def looked(self, target: str) -> None:
        """The shared store has told what all replicas have used."""
        it = self._targets[target]
        it.desk.ledger.looked(self._at(it))

    def part(self, target: str, levels: tuple[WindowStatus, ...], replicas: int) -> None:
        """Go on alone with this replica's part, until ``join``."""
        it = self._targets[target]
        it.desk.ledger.part(self._at(it), levels, max(1, replicas))

    def join(self, target: str) -> None:
        """The others can be asked again."""
        self._targets[target].desk.ledger.join()
        self.scatter(target)

    def scatter(self, target: str) -> None:
        """Nothing is granted to those who wait here any more: they must ask again."""
        it = self._targets[target]
        for key, ticket in list(it.tickets.items()):
            it.tickets.pop(key)
            it.desk.room.leave(key, None)
            ticket.end(Requeue())
        it.changed.set()

    def charges(self, target: str) -> tuple[dict[int, int], ...]:
        """What this replica has charged, by window and bucket."""
        it = self._targets[target]
        self._at(it)
        return tuple(ring.charges() for ring in it.desk.ledger.rings)

    def live(self, target: str) -> Mapping[str, tuple[Waiter, tuple[int, ...]]]:
        """The reservations that have not ended: who made them, and per window the bucket of the charge."""
        it = self._targets[target]
        return {key: (live.waiter, it.desk.ledger.buckets(live.charge)) for key, live in it.live.items()}
