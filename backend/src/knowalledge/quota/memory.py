"""The quota of one process: the pure desk under a real clock. Greenlets switch only at IO, so it needs no lock.

It is also the mirror of what this process has spent of a quota that replicas share, for the time when the shared
store cannot be asked (``record``, ``part``, ``join``).
"""

from collections.abc import Mapping

import gevent
from gevent.event import Event
from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.core.context import Priority
from knowalledge.quota.domain.admission import AdmissionController, Granted, Refused, Waiting
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
from knowalledge.quota.ports import AskAgain, Decision, QueueStats, Reservation, ReservationRequest, Tally
from knowalledge.quota.ticket import WaitingTicket

REFRESH_S = 1.0  # how often waiters' positions are brought up to date


class Live(Struct, frozen=True):
    """A reservation that has not ended."""

    waiter: Waiter
    entry: Charge


class _Target:
    """A desk, and who waits at it."""

    def __init__(self, windows: tuple[Window, ...], rules: QueueRules) -> None:
        self.windows = windows
        self.days = Days(windows)
        self.desk = AdmissionController(windows, rules)
        self.live: dict[str, Live] = {}
        self.tickets: dict[str, WaitingTicket] = {}
        self.tally = Tally()
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

    def ask(self, target: str, asking: ReservationRequest) -> Decision:
        it = self._targets[target]
        refuse_what_never_fits(target, it.windows, asking.need)
        at = self._at(it)
        need = cap(it.windows, asking.need)
        waiter = Waiter(asking.id, asking.level, asking.tenant, need, asking.arrived or at.now)
        reply = it.desk.ask(at, waiter, asking.patience_s)
        levels = it.desk.ledger.levels(at)
        match reply:
            case Granted(entry):
                it.live[asking.id] = Live(waiter, entry)
                return Decision(Reservation(target, asking.id, need), levels=levels)
            case Refused(reason, wait_s, window):
                it.tally = replace(it.tally, refused=it.tally.refused + 1)
                return Decision(refusal=reason, wait_s=wait_s, window=window, levels=levels)
            case Waiting(position, eta_s, shed):
                if shed is not None:
                    it.tickets.pop(shed.id).end(QueueOutcome.SHED)
                ticket = WaitingTicket(lambda ending: self._give_up(target, asking.id, ending))
                ticket.position, ticket.eta_s, ticket.arrived = position, eta_s, waiter.arrived
                if not it.tickets and self._pumps:
                    gevent.spawn(self._pump, target)
                it.tickets[asking.id] = ticket
                it.changed.set()
                return Decision(ticket=ticket, wait_s=eta_s, levels=levels)

    def settle(self, reservation: Reservation, true: TokenCost) -> None:
        it = self._targets[reservation.target]
        live = it.live.pop(reservation.id, None)
        if live is not None:
            at = self._at(it)
            it.desk.ledger.settle(at, live.entry, true)
            it.desk.room.correct(live.waiter, true)
            it.tally = replace(
                it.tally,
                settled=it.tally.settled + 1,
                drift_input=it.tally.drift_input + true.input - live.entry.need.input,
                drift_output=it.tally.drift_output + true.output - live.entry.need.output,
            )
            self._freed(reservation.target)

    def release(self, reservation: Reservation) -> None:
        it = self._targets[reservation.target]
        live = it.live.pop(reservation.id, None)
        if live is not None:
            it.desk.ledger.release(self._at(it), live.entry)
            it.tally = replace(it.tally, released=it.tally.released + 1)
            self._freed(reservation.target)

    def refused(self, reservation: Reservation) -> None:
        it = self._targets[reservation.target]
        live = it.live.pop(reservation.id, None)
        if live is not None:
            it.desk.ledger.refused(self._at(it), live.entry)
            it.tally = replace(it.tally, limited=it.tally.limited + 1)
            self._freed(reservation.target)

    def close_until(self, target: str, seconds: float, window: str) -> None:
        it = self._targets[target]
        it.desk.ledger.close_until(self._at(it).now + int(seconds * SECOND), window)

    def levels(self, target: str) -> tuple[WindowStatus, ...]:
        it = self._targets[target]
        return it.desk.ledger.levels(self._at(it))

    def tally(self, target: str) -> Tally:
        return self._targets[target].tally

    def depths(self, target: str) -> tuple[QueueStats, ...]:
        it = self._targets[target]
        at = self._at(it)
        room = it.desk.room
        it.desk.ledger.advance(at)
        found = []
        for level in Priority:
            oldest = room.oldest(level)
            newcomer = Waiter("", level, "", TokenCost(0, 0), at.now)
            waited = 0.0 if oldest is None else (at.now - oldest) / SECOND
            left = {ending: count for (of, ending), count in room.left.items() if of is level}
            eta = it.desk.place(at, newcomer)[1]
            crowds = room.crowds(at.now, level, eta)
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
        for waiter, entry in granted:
            it.live[waiter.id] = Live(waiter, entry)
            ticket = it.tickets.pop(waiter.id)
            ticket.end(
                Decision(Reservation(target, waiter.id, waiter.need), levels=it.desk.ledger.levels(at))
            )
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
        it.tickets.pop(key, None)
        if it.desk.room.leave(key, ending) is not None:
            self._freed(target)

    def _at(self, it: _Target) -> Moment:
        return it.days.at(int(self._clock.now() * SECOND) + self.skew_us)

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
            ticket.end(AskAgain.AGAIN)
        it.changed.set()

    def charges(self, target: str) -> tuple[dict[int, int], ...]:
        """What this replica has charged, by window and bucket."""
        it = self._targets[target]
        it.desk.ledger.advance(self._at(it))
        return tuple(ring.charges() for ring in it.desk.ledger.rings)

    def live(self, target: str) -> Mapping[str, Live]:
        return self._targets[target].live
