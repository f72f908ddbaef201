"""The quota of one process: the pure admission controller under a real clock. Greenlets switch only at IO, so it needs
no lock.

It is also the mirror of what this process has spent of a quota that replicas share, for the time when the shared
store is lost (``mirror_grant``, ``enter_degraded``, ``leave_degraded``).
"""

from collections.abc import Mapping
from functools import partial
from typing import assert_never

from gevent.event import Event
from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.core.context import Priority
from knowalledge.core.supervision import Supervisor
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
    cap_output,
    raise_if_never_fits,
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

REFRESH_S = 1.0  # how often the positions of waiters are refreshed


class _Live(Struct, frozen=True):
    """A reservation that has not ended."""

    waiter: Waiter
    charge: Charge


class _Target:
    """One target's admission controller, live reservations and waiters."""

    def __init__(self, windows: tuple[Window, ...], rules: QueueRules) -> None:
        self.windows = windows
        self.days = Days(windows)
        self.controller = AdmissionController(windows, rules)
        self.live: dict[str, _Live] = {}
        self.tickets: dict[str, WaitingTicket] = {}
        self.totals = QuotaTotals()
        self.changed = Event()  # something that the pump did not know when it went to sleep


class MemoryQuotaStore:
    """Implements ``QuotaStore`` in process; targets without windows are unlimited."""

    def __init__(
        self,
        windows: Mapping[str, tuple[Window, ...]],
        rules: QueueRules,
        clock: Clock,
        auto_dispatch: bool = True,
        supervisor: Supervisor | None = None,
    ) -> None:
        """Without ``auto_dispatch``, in tests, ``dispatch`` must be called when the first waiter's turn comes."""
        self._auto_dispatch = auto_dispatch
        self._supervisor = supervisor or Supervisor()
        self._targets = {name: _Target(own, rules) for name, own in windows.items()}
        self._clock = clock
        self.skew_us = 0  # by how much the shared store's clock is ahead of this machine's

    def reserve(self, target: str, request: ReservationRequest) -> Decision:
        state = self._targets[target]
        raise_if_never_fits(target, state.windows, request.cost)
        at = self._now(state)
        cost = cap_output(state.windows, request.cost)
        latest = state.controller.ledger.latest
        # The arrival at another store may be a moment that this one has not reached.
        arrived = min(request.arrived, latest) or latest
        waiter = Waiter(request.id, request.level, request.tenant, cost, arrived)
        admission = state.controller.admit(at, waiter, request.patience_s)
        status = state.controller.ledger.window_status(at)
        match admission:
            case Admitted(charge):
                state.live[request.id] = _Live(waiter, charge)
                return Granted(Reservation(target, request.id, cost), status)
            case Rejected(reason, wait_s, window):
                state.totals = replace(state.totals, refused=state.totals.refused + 1)
                return Refused(reason, wait_s, window, status)
            case Enqueued(position, eta_s, shed):
                if shed is not None:
                    state.tickets.pop(shed.id).end(Dequeued(QueueOutcome.SHED))
                ticket = WaitingTicket(lambda outcome: self._give_up(target, request.id, outcome))
                ticket.position, ticket.eta_s, ticket.arrived = position, eta_s, waiter.arrived
                if not state.tickets and self._auto_dispatch:
                    self._supervisor.complete("quota.local_pump", partial(self._pump, target))
                state.tickets[request.id] = ticket
                state.changed.set()
                return Queued(ticket, status)
            case _:
                assert_never(admission)

    def settle(self, reservation: Reservation, actual: TokenCost) -> None:
        state = self._targets[reservation.target]
        at = self._now(state)
        live = state.live.pop(reservation.id, None)
        if live is not None:
            state.controller.ledger.settle(at, live.charge, actual)
            state.controller.queue.correct(live.waiter, actual)
            estimated, totals = live.charge.cost, state.totals
            state.totals = replace(
                totals,
                settled=totals.settled + 1,
                drift_input=totals.drift_input + actual.input - estimated.input,
                drift_output=totals.drift_output + actual.output - estimated.output,
            )
            self._dispatch_if_waiting(reservation.target)

    def release(self, reservation: Reservation) -> None:
        state = self._targets[reservation.target]
        at = self._now(state)
        live = state.live.pop(reservation.id, None)
        if live is not None:
            state.controller.ledger.release(at, live.charge)
            state.totals = replace(state.totals, released=state.totals.released + 1)
            self._dispatch_if_waiting(reservation.target)

    def release_rejected(self, reservation: Reservation) -> None:
        state = self._targets[reservation.target]
        at = self._now(state)
        live = state.live.pop(reservation.id, None)
        if live is not None:
            state.controller.ledger.release_rejected(at, live.charge)
            state.totals = replace(state.totals, rejected=state.totals.rejected + 1)
            self._dispatch_if_waiting(reservation.target)

    def close_gate(self, target: str, seconds: float, window: str) -> None:
        state = self._targets[target]
        state.controller.ledger.close_gate(self._now(state).now + int(seconds * SECOND), window)

    def window_status(self, target: str) -> tuple[WindowStatus, ...]:
        state = self._targets[target]
        return state.controller.ledger.window_status(self._now(state))

    def totals(self, target: str) -> QuotaTotals:
        return self._targets[target].totals

    def queue_stats(self, target: str) -> tuple[QueueStats, ...]:
        state = self._targets[target]
        at = self._now(state)
        queue, latest = state.controller.queue, state.controller.ledger.latest
        stats = []
        for level in Priority:
            oldest = queue.oldest(level)
            newcomer = Waiter("", level, "", TokenCost(0, 0), latest)
            eta_s = state.controller.eta_s(at, newcomer)
            stats.append(
                QueueStats(
                    level=level,
                    waiting=queue.size(level),
                    oldest_s=0.0 if oldest is None else (latest - oldest) / SECOND,
                    eta_s=eta_s,
                    tenants=queue.tenant_stats(latest, level, eta_s),
                    left={outcome: count for (of, outcome), count in queue.left.items() if of is level},
                )
            )
        return tuple(stats)

    def shut_down(self) -> None:
        """End every wait: this process is going away."""
        for state in self._targets.values():
            for ticket in list(state.tickets.values()):
                ticket.leave(QueueOutcome.SHUTTING_DOWN)

    # -- waiters ---------------------------------------------------------------------------------------------------

    def dispatch(self, target: str) -> float:
        """Grant what fits to those who wait; seconds until the next would fit, 0 if none waits."""
        state = self._targets[target]
        at = self._now(state)
        granted, wait_s = state.controller.dispatch(at)
        for waiter, charge in granted:
            state.live[waiter.id] = _Live(waiter, charge)
            reservation = Reservation(target, waiter.id, waiter.cost)
            status = state.controller.ledger.window_status(at)
            state.tickets.pop(waiter.id).end(Granted(reservation, status))
        return wait_s

    def _dispatch_if_waiting(self, target: str) -> None:
        if self._targets[target].tickets:
            self.dispatch(target)

    def _pump(self, target: str) -> None:
        """Dispatch whenever the first waiter's turn comes, for as long as there is one."""
        state = self._targets[target]
        refreshed = self._clock.monotonic()
        while state.tickets:
            wait_s = self.dispatch(target)
            if self._clock.monotonic() - refreshed >= REFRESH_S:
                refreshed = self._clock.monotonic()
                positions = state.controller.positions(self._now(state))
                for waiter_id, position in positions.by_id.items():
                    ticket = state.tickets[waiter_id]
                    ticket.position, ticket.eta_s = position, positions.eta_s(position)
            state.changed.clear()
            state.changed.wait(min(wait_s, REFRESH_S) if state.tickets else 0)

    def _give_up(self, target: str, waiter_id: str, outcome: QueueOutcome) -> None:
        state = self._targets[target]
        self._now(state)
        state.tickets.pop(waiter_id, None)
        if state.controller.queue.leave(waiter_id, outcome) is not None:
            self._dispatch_if_waiting(target)

    def _now(self, state: _Target) -> Moment:
        """Now. The ledger is brought to it, so that every call shows it the clock, as every script does."""
        at = state.days.at(int(self._clock.now() * SECOND) + self.skew_us)
        state.controller.ledger.advance(at)
        return at

    # -- as a mirror of a shared quota -----------------------------------------------------------------------------

    def mirror_grant(self, target: str, waiter: Waiter) -> None:
        """The shared store has granted this."""
        state = self._targets[target]
        charge = state.controller.ledger.charge(self._now(state), waiter.cost)
        state.live[waiter.id] = _Live(waiter, charge)

    def record_sync(self, target: str) -> None:
        """The status of all replicas together has come from the shared store."""
        state = self._targets[target]
        state.controller.ledger.record_sync(self._now(state))

    def enter_degraded(self, target: str, status: tuple[WindowStatus, ...], replicas: int) -> None:
        """Grant this replica's share, until ``leave_degraded``; see ``Ledger.enter_degraded``."""
        state = self._targets[target]
        state.controller.ledger.enter_degraded(self._now(state), status, max(1, replicas))

    def leave_degraded(self, target: str) -> None:
        """The shared store decides again."""
        self._targets[target].controller.ledger.leave_degraded()
        self.requeue_all(target)

    def requeue_all(self, target: str) -> None:
        """End every wait here: the requests must reserve again."""
        state = self._targets[target]
        for waiter_id, ticket in list(state.tickets.items()):
            state.tickets.pop(waiter_id)
            state.controller.queue.leave(waiter_id, None)
            ticket.end(Requeue())
        state.changed.set()

    def charges(self, target: str) -> tuple[dict[int, int], ...]:
        """What this replica has charged, by window and bucket."""
        state = self._targets[target]
        self._now(state)
        return tuple(ring.by_bucket() for ring in state.controller.ledger.rings)

    def live(self, target: str) -> Mapping[str, tuple[Waiter, tuple[int, ...]]]:
        """The reservations that have not ended: the request, and for each window the bucket of its charge."""
        state = self._targets[target]
        return {
            reservation_id: (live.waiter, state.controller.ledger.buckets(live.charge))
            for reservation_id, live in state.live.items()
        }
