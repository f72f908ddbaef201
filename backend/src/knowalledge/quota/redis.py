"""The quota of all replicas: ledger and waiting room in Redis, one atomic script for each step.

This class does not handle the loss of Redis: it raises ``RedisUnavailable`` when Redis does not answer, and
``EpochMismatch`` when the state there is not the one that this replica has joined. ``replica.py`` handles both.

A waiter is granted by whichever replica's script finds that its cost fits: at the end of a settlement, or when the
first waiter's turn comes, for which every replica with waiters sets its own timer. The grant is published to the
waiter's replica; a message that is lost is found at the next heartbeat.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Protocol, assert_never

import msgspec
from gevent.event import Event

from knowalledge.core.clock import Clock
from knowalledge.core.supervision import Supervisor
from knowalledge.net.redis.errors import REDIS_ERRORS, reason
from knowalledge.net.redis.scripts import CommandExecutor
from knowalledge.quota.commands import (
    SCRIPTS,
    EndedReservation,
    EpochMismatch,
    GrantedReply,
    HeartbeatReply,
    LocalUsage,
    QueuedReply,
    QuotaCommands,
    QuotaScripts,
    RedisUnavailable,
    RefusedReply,
    ReservationOutcome,
)
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, Waiter
from knowalledge.quota.domain.window import (
    GUARD_S,
    SECOND,
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
    WaitResult,
)
from knowalledge.quota.schema import CHANNEL, StoredTarget
from knowalledge.quota.ticket import WaitingTicket

HEARTBEAT_S = 2.0
# A replica without a heartbeat for so long is dead. The next heartbeat of another one sweeps it, so within 6 s its
# places and its quota are the others'.
LEASE_S = 4.0
# A subscription that hears nothing for so long asks for an answer, and ends without one within as long again.
BEAT_S = 1.0
REFRESH_S = 1.0  # how often a waiter's position is looked up


class Client(CommandExecutor, Protocol):
    """What this store needs of a Redis client."""

    def pubsub(self, **options: Any) -> Any: ...


class _Target:
    """One target's keys and configuration, and this replica's waiters."""

    def __init__(self, stored: StoredTarget) -> None:
        self.stored = stored
        self.tickets: dict[str, WaitingTicket] = {}
        self.waiters: dict[str, Waiter] = {}
        self.epoch = ""  # of the state that this replica has joined
        self.tried_epoch = ""  # of the state that it has last tried to join
        self.pumping = False
        self.changed = Event()  # something that the pump did not know when it went to sleep

    def is_late(self, buckets: Sequence[int], redis_now: int) -> bool:
        """Whether a grant that is spent now would be counted by the provider after the ledger has forgotten it."""
        return any(
            redis_now > (bucket + 1) * window.width + GUARD_S * SECOND
            for window, bucket in zip(self.stored.windows, buckets, strict=True)
            if not window.calendar
        )

    def enter(self, waiter: Waiter, ticket: WaitingTicket) -> None:
        self.tickets[waiter.id], self.waiters[waiter.id] = ticket, waiter

    def forget(self, request_id: str) -> None:
        self.tickets.pop(request_id, None)
        self.waiters.pop(request_id, None)

    def end(self, request_id: str, result: WaitResult) -> None:
        """End a wait here, if it has not ended."""
        ticket = self.tickets.get(request_id)
        self.forget(request_id)
        if ticket is not None:
            ticket.end(result)

    def requeue_all(self) -> None:
        """Every waiter must reserve again."""
        for request_id in list(self.tickets):
            self.end(request_id, Requeue())


class RedisQuotaStore:
    """The shared state of every replica that names the same Redis."""

    def __init__(
        self,
        client: Client,
        windows: Mapping[str, tuple[Window, ...]],
        rules: QueueRules,
        clock: Clock,
        replica: str,
        redis_now: Callable[[], str] = lambda: "",
        auto_dispatch: bool = True,
        scripts: QuotaScripts = SCRIPTS,
        supervisor: Supervisor | None = None,
        prefix: str = "",
    ) -> None:
        """``replica`` names this process. The rest is for tests. ``redis_now`` gives microseconds in place of Redis'
        own clock. Without ``auto_dispatch``, ``dispatch`` must be called when the first waiter's turn comes.
        ``scripts`` are those of a version. ``prefix``: of every key and channel.
        """
        self._channel = f"{prefix}{CHANNEL}{replica}"
        self._auto_dispatch = auto_dispatch
        self._supervisor = supervisor or Supervisor()
        self._client = client
        self._clock = clock
        self._replica = replica
        self._commands = QuotaCommands(client, rules, replica, self._now, redis_now, scripts, prefix)
        self._targets = {
            name: _Target(StoredTarget(name, own, rules, prefix)) for name, own in windows.items()
        }
        self._by_prefix = {target.stored.prefix: target for target in self._targets.values()}
        self._redis_clock = (0, 0.0)  # Redis' microseconds, and when it said so (monotonic)
        self._listen_anew = False
        self.on_unavailable: Callable[[RedisUnavailable], None] = lambda _: None
        self.on_grant: Callable[[str, Waiter], None] = lambda target, waiter: None  # noqa: ARG005

    def reserve(self, target: str, request: ReservationRequest) -> Decision:
        local = self._targets[target]
        windows = local.stored.windows
        if not windows:
            return Granted(Reservation(target, request.id, request.cost))
        raise_if_never_fits(target, windows, request.cost)
        cost = cap_output(windows, request.cost)
        waiter = Waiter(request.id, request.level, request.tenant, cost, request.arrived)
        ticket = WaitingTicket(lambda outcome: self._give_up(local, waiter, outcome))
        if request.patience_s > 0:
            # Before the script runs: the grant may be published before its reply is read.
            local.enter(waiter, ticket)
        try:
            reply = self._commands.reserve(local.stored, local.epoch, waiter, request.patience_s)
        except (RedisUnavailable, EpochMismatch):
            local.forget(request.id)
            raise
        except BaseException:
            # The caller was interrupted, and the script may yet run: what it takes would stay unused.
            give_up = partial(self._give_up, local, waiter, QueueOutcome.CANCELLED)
            self._supervisor.complete("quota.give_up", give_up)
            raise
        match reply:
            case GrantedReply(status):
                local.forget(request.id)
                self.on_grant(target, waiter)
                return Granted(Reservation(target, request.id, cost), status)
            case QueuedReply(position, eta_us, arrived, status):
                ticket.position, ticket.eta_s, ticket.arrived = position, eta_us / SECOND, arrived
                if not ticket.ended:
                    self._wake_pump(local)
                return Queued(ticket, status)
            case RefusedReply(reason, eta_us, window, status):
                local.forget(request.id)
                return Refused(reason, eta_us / SECOND, window, status)
            case _:
                assert_never(reply)

    def settle(self, reservation: Reservation, actual: TokenCost) -> None:
        self.finish(reservation.target, (EndedReservation(reservation, ReservationOutcome.SETTLED, actual),))

    def release(self, reservation: Reservation) -> None:
        self.finish(reservation.target, (EndedReservation(reservation, ReservationOutcome.RELEASED),))

    def release_rejected(self, reservation: Reservation) -> None:
        self.finish(reservation.target, (EndedReservation(reservation, ReservationOutcome.REJECTED),))

    def finish(self, target: str, ends: Sequence[EndedReservation]) -> int:
        """End reservations of one target in this order, in one step; then those who wait are granted what is free.

        Returns how many had not ended before; an end of the others changes nothing.
        """
        local = self._targets[target]
        return self._commands.finish(local.stored, local.epoch, ends) if local.stored.windows else 0

    def close_gate(self, target: str, seconds: float, window: str) -> None:
        self._commands.close_gate(self._targets[target].stored, seconds, window)

    def window_status(self, target: str) -> tuple[WindowStatus, ...]:
        stored = self._targets[target].stored
        return self._commands.window_status(stored) if stored.windows else ()

    def totals(self, target: str) -> QuotaTotals:
        return self._commands.totals(self._targets[target].stored)

    def queue_stats(self, target: str) -> tuple[QueueStats, ...]:
        return self._commands.queue_stats(self._targets[target].stored)

    def shut_down(self) -> None:
        """End every wait here: this process is going away."""
        for local in self._targets.values():
            for ticket in list(local.tickets.values()):
                ticket.leave(QueueOutcome.SHUTTING_DOWN)

    def dispatch(self, target: str) -> float:
        """Grant what fits to those who wait; seconds until the next would fit, 0 if none waits."""
        return self._commands.dispatch(self._targets[target].stored).wait_us / SECOND

    def _now(self) -> int:
        return int(self._clock.now() * SECOND)

    # -- those who wait here ---------------------------------------------------------------------------------------

    def _give_up(self, local: _Target, waiter: Waiter, outcome: QueueOutcome) -> None:
        local.forget(waiter.id)
        try:
            if not self._commands.leave(local.stored, waiter.id, outcome):
                # Granted in the same moment: the message is under way and will find no ticket.
                self.release(Reservation(local.stored.name, waiter.id, waiter.cost))
        except (RedisUnavailable, EpochMismatch):
            pass  # the place goes with the state, or with the next join

    def _grant(self, local: _Target, request_id: str, buckets: Sequence[int]) -> None:
        """A waiter was granted; its charge is brought up to date first if that was too long ago."""
        us, said_at = self._redis_clock
        redis_now = us + int((self._clock.monotonic() - said_at) * SECOND)
        if us and request_id in local.tickets and local.is_late(buckets, redis_now):
            self._supervisor.complete("quota.renew", partial(self._renew, local, request_id))
        else:
            self._end_granted(local, request_id)

    def _renew(self, local: _Target, request_id: str) -> None:
        try:
            renewed = self._commands.renew(local.stored, local.epoch, request_id)
        except EpochMismatch:
            renewed = False
        except RedisUnavailable as error:
            self.on_unavailable(error)
            renewed = False
        if renewed:
            self._end_granted(local, request_id)
        else:
            local.end(request_id, Requeue())

    def _end_granted(self, local: _Target, request_id: str) -> None:
        ticket, waiter = local.tickets.get(request_id), local.waiters.get(request_id)
        local.forget(request_id)
        if ticket is not None and waiter is not None and not ticket.ended:
            self.on_grant(local.stored.name, waiter)
            ticket.end(Granted(Reservation(local.stored.name, request_id, waiter.cost)))

    def _wake_pump(self, local: _Target) -> None:
        if self._auto_dispatch and not local.pumping:
            local.pumping = True
            self._supervisor.complete("quota.pump", partial(self._pump, local))
        local.changed.set()

    def _pump(self, local: _Target) -> None:
        """Dispatch whenever the first waiter's turn comes, for as long as a request waits here."""
        refreshed = self._clock.monotonic()
        try:
            while local.tickets:
                wait = self.dispatch(local.stored.name)
                if self._clock.monotonic() - refreshed >= REFRESH_S and local.tickets:
                    refreshed = self._clock.monotonic()
                    self._refresh(local)
                local.changed.clear()
                if local.tickets:
                    local.changed.wait(min(wait, REFRESH_S) if wait else REFRESH_S)
        except RedisUnavailable as error:
            self.on_unavailable(error)
        # Not after another error: then this is called again.
        local.pumping = False

    def _refresh(self, local: _Target) -> None:
        """Bring positions and times up to date."""
        positions = self._commands.positions(local.stored, list(local.tickets))
        for request_id, position in positions.by_id.items():
            ticket = local.tickets.get(request_id)
            if ticket is not None:
                ticket.position, ticket.eta_s = position, positions.eta_s(position)

    # -- as one of several replicas --------------------------------------------------------------------------------

    def listen(self) -> None:
        """Receive grants to waiters of this replica, until the connection is lost or shall be replaced.

        Raises ``RedisUnavailable``, also for a connection whose packets are dropped: nothing else would ever tell.
        """
        self._listen_anew = False
        pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            pubsub.subscribe(self._channel)
            asked = False
            while not self._listen_anew:
                message = pubsub.get_message(timeout=BEAT_S)
                if message is not None:
                    asked = False
                    if message["type"] == "message":
                        self._receive(message["data"])
                elif asked:
                    raise RedisUnavailable("the subscription is silent")
                else:
                    pubsub.ping()
                    asked = True
        except REDIS_ERRORS as error:
            raise RedisUnavailable(reason(error)) from error
        finally:
            pubsub.close()

    def _receive(self, data: bytes) -> None:
        prefix, outcome, request_id, *grant = msgspec.msgpack.decode(data)
        local = self._by_prefix.get(prefix)
        if local is None:
            return
        if outcome == QueueOutcome.GRANTED:
            self._grant(local, request_id, grant[2])
        else:
            local.end(request_id, Dequeued(QueueOutcome.SHED))

    def heartbeat(self, target: str) -> HeartbeatReply:
        """Say that this replica lives; find grants whose message was lost; sweep the dead."""
        local = self._targets[target]
        waiting = [request_id for request_id, ticket in local.tickets.items() if ticket.position]
        reply = self._commands.heartbeat(local.stored, local.epoch, LEASE_S, waiting)
        self._redis_clock = reply.clock_us, self._clock.monotonic()
        for request_id, buckets in reply.ended:
            if buckets:
                self._grant(local, request_id, buckets)
            else:
                local.end(request_id, Requeue())
        return reply

    def join(self, target: str, usage_of: Callable[[bool], LocalUsage], pause_s: float) -> bool:
        """Join the state that Redis has, or begin one; whether it was new to this replica.

        ``usage_of`` gives what this replica brings: all that it has spent (True), or what it has while it was degraded.
        Nothing is granted for ``pause_s`` seconds, so that every replica may join before the first grant.
        """
        local = self._targets[target]
        while True:
            if target in self._commands.broken:
                self._commands.reset(local.stored, local.tried_epoch)
            epoch = local.tried_epoch = self._commands.epoch(local.stored)
            new = epoch != local.epoch or not epoch
            joined = self._commands.join(local.stored, epoch, LEASE_S, pause_s, usage_of(new))
            if joined == epoch or not epoch:
                local.epoch = local.tried_epoch = joined
                local.requeue_all()
                return new

    def requeue_all(self) -> None:
        """Redis is lost: every waiter must reserve again, and the subscription may be at a server that is none now."""
        self._listen_anew = True
        for local in self._targets.values():
            local.requeue_all()

    def probe(self) -> None:
        """Try a write. Raises ``RedisUnavailable``."""
        self._commands.probe()
