"""The quota of all replicas: ledger and waiting room in Redis, one atomic script a step. See ``scripts/_*.lua``.

This class does not handle the loss of Redis: it raises ``RedisUnavailable`` when Redis does not answer, and
``EpochMismatch`` when the state there is not the one that this replica has joined. ``replica.py`` handles both.

A waiter is granted by whichever replica's script finds room for it: at the end of a settlement, or when the head's
turn comes, for which every replica with waiters sets its own timer. The grant is published to the waiter's replica;
a message that is lost is found at the next heartbeat.
"""

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any, Protocol

import gevent
import msgspec
from gevent.event import Event
from msgspec import Struct
from redis.exceptions import RedisError, ResponseError

from knowalledge.core.clock import Clock
from knowalledge.core.context import Priority
from knowalledge.net.redis.scripts import CommandExecutor, Script
from knowalledge.quota.domain.admission import Places, RefusalReason
from knowalledge.quota.domain.calendar import Days
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, TenantQueueStats, Waiter, part_in_turns
from knowalledge.quota.domain.window import (
    PACED_SPAN_S,
    SECOND,
    Count,
    Moment,
    TokenCost,
    Window,
    WindowStatus,
    cap,
    refuse_what_never_fits,
    window_status,
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

_ASK = Script("knowalledge.quota", "ask", "_ledger", "_room")
_DISPATCH = Script("knowalledge.quota", "dispatch", "_ledger", "_room")
_FINISH = Script("knowalledge.quota", "finish", "_ledger", "_room")
_LEAVE = Script("knowalledge.quota", "leave", "_ledger", "_room")
_BEAT = Script("knowalledge.quota", "beat", "_ledger", "_room")
_PLACES = Script("knowalledge.quota", "places", "_ledger", "_room")
_LEVELS = Script("knowalledge.quota", "levels", "_ledger", "_room")
_GATE = Script("knowalledge.quota", "gate", "_ledger", "_room")
_JOIN = Script("knowalledge.quota", "join", "_ledger", "_room")
_DEPTHS = Script("knowalledge.quota", "depths", "_ledger", "_room")

BEAT_S = 2.0  # how often a replica says that it lives
LEASE_S = 6.0  # by then the places and the quota of a replica that has died are the others' ...
SILENCE_S = LEASE_S - BEAT_S  # ... for after so much silence the next one to beat sweeps it
REFRESH_S = 1.0  # how often a waiter's position is looked up


# Answers of a server that cannot do its work for now: full, loading, a replica, a cluster on its way to health.
_CANNOT = re.compile(r"OOM|LOADING|READONLY|MISCONF|MASTERDOWN|CLUSTERDOWN|TRYAGAIN|BUSY|NOREPLICAS")


def _endings(pairs: list[Any]) -> dict[QueueOutcome, int]:
    return {QueueOutcome(it.decode()): n for it, n in zip(pairs[0::2], pairs[1::2], strict=True)}


class RedisUnavailable(Exception):
    """Redis does not answer, or not in time, or cannot write."""


class EpochMismatch(Exception):
    """Redis answers, but its state is not the one that this replica has joined."""


class Client(CommandExecutor, Protocol):
    """What this store needs of a Redis client."""

    def pubsub(self, **options: Any) -> Any: ...


class _Target:
    """One target's keys and configuration, and this replica's waiters at it."""

    def __init__(self, name: str, windows: tuple[Window, ...], rules: QueueRules) -> None:
        self.name = name
        self.windows = windows
        self.rules = rules
        # The hash tag keeps one target's keys on one Cluster node, where a script can reach them all.
        self.prefix = f"kn:{{{name}}}:"
        self.keys = (f"{self.prefix}quota".encode(), f"{self.prefix}rings".encode())
        self.days = Days(windows)
        self._packed: tuple[tuple[int, ...], bytes] = (), b""
        self.tickets: dict[str, WaitingTicket] = {}
        self.waiters: dict[str, Waiter] = {}
        self.epoch = ""  # of the state that this replica has joined
        self.pumping = False
        self.changed = Event()  # something that the pump did not know when it went to sleep

    def config(self, now: int) -> bytes:
        """The configuration as the scripts take it; made anew when a calendar day ends."""
        at = self.days.at(now)
        if self._packed[0] is not at.ends or not self._packed[1]:
            numbers = list(self._numbers(at))
            self._packed = at.ends, struct.pack(f"<{len(numbers)}d", *numbers)
        return self._packed[1]

    def _numbers(self, at: Moment) -> Iterator[float]:
        yield self.rules.capacity
        yield self.rules.aging_s * SECOND
        for level in Priority:
            lane = self.rules.lane(level)
            yield lane.share
            yield lane.burst
        yield len(self.windows)
        for window, day, end in zip(self.windows, at.days, at.ends, strict=True):
            yield window.limit
            yield window.width
            yield window.count is Count.REQUESTS
            yield window.count in (Count.TOKENS, Count.INPUT)
            yield window.count in (Count.TOKENS, Count.OUTPUT)
            yield day
            yield end
            yield window.span_s * SECOND
            yield window.span_s <= PACED_SPAN_S
            yield window.learn


class Gate(Struct, frozen=True):
    """The provider wants nothing for so long: what is left, since no two machines' clocks are one."""

    left_us: int = 0
    window: str = ""  # that it named


class HeartbeatReply(Struct, frozen=True):
    """What a heartbeat brings back."""

    clock_us: int  # Redis' own
    alive: int  # replicas
    gate: Gate
    window_status: tuple[WindowStatus, ...]  # by all replicas


class LocalUsage(Struct, frozen=True):
    """What a replica brings along when it joins a state; see ``join.lua``."""

    charges: tuple[dict[int, int], ...]
    floors: tuple[int, ...]
    limits: tuple[int, ...]
    live: tuple[tuple[Waiter, tuple[int, ...]], ...]
    finished: tuple[str, ...]
    pending: tuple[str, ...] = ()
    gate: Gate = Gate()


class ReservationOutcome(StrEnum):
    """How a reservation ended; by the names of the counters in ``finish.lua``."""

    SETTLED = "xs"
    RELEASED = "xr"
    REJECTED = "xl"  # by the provider


class EndedReservation(Struct, frozen=True):
    """A reservation's end."""

    reservation: Reservation
    how: ReservationOutcome
    actual: TokenCost = TokenCost(0, 0)


class RedisQuotaStore:
    """The shared state of every replica that names the same Redis."""

    def __init__(
        self,
        client: Client,
        windows: Mapping[str, tuple[Window, ...]],
        rules: QueueRules,
        clock: Clock,
        replica: str,
        moment: Callable[[], str] = lambda: "",
        pumps: bool = True,
    ) -> None:
        """``replica`` names this process. ``moment`` and ``pumps`` are for tests: microseconds in place of Redis' own
        clock; and without pumps, ``dispatch`` must be called when the head's turn comes.
        """
        self._pumps = pumps
        self._client = client
        self._rules = rules
        self._clock = clock
        self._replica = replica
        self._moment = moment
        self._targets = {name: _Target(name, found, rules) for name, found in windows.items()}
        self._by_prefix = {it.prefix: it for it in self._targets.values()}
        self.on_grant: Callable[[str, Waiter], None] = lambda target, waiter: None  # noqa: ARG005

    def reserve(self, target: str, request: ReservationRequest) -> Decision:
        it = self._targets[target]
        if not it.windows:
            return Granted(Reservation(target, request.id, request.cost))
        refuse_what_never_fits(target, it.windows, request.cost)
        cost = cap(it.windows, request.cost)
        waiter = Waiter(request.id, request.level, request.tenant, cost, request.arrived)
        ticket = WaitingTicket(lambda outcome: self._give_up(it, waiter, outcome))
        if request.patience_s > 0:
            # Before the script runs: the grant may be published before its reply is read.
            it.tickets[request.id], it.waiters[request.id] = ticket, waiter
        try:
            what, first, second, third, *rest = self._run(
                _ASK,
                it,
                request.id,
                int(request.level),
                cost.input,
                cost.output,
                int(request.patience_s * SECOND),
                self._replica,
                self._rules.weights.get(request.tenant, 1.0),
                request.tenant,
                request.arrived,
                it.epoch,
            )
        except (RedisUnavailable, EpochMismatch):
            self._forget(it, request.id)
            raise
        except BaseException:
            # The caller was interrupted, and the script may yet run: what it takes, nobody will use.
            gevent.spawn(self._give_up, it, waiter, QueueOutcome.CANCELLED)
            raise
        status = self._status(it, rest)
        if what == 1:
            ticket.position, ticket.eta_s, ticket.arrived = first, second / SECOND, third
            if not ticket.ended:
                if self._pumps and not it.pumping:
                    it.pumping = True
                    gevent.spawn(self._pump, it)
                it.changed.set()
            return Queued(ticket, status)
        self._forget(it, request.id)
        if what == 0:
            self.on_grant(target, waiter)
            return Granted(Reservation(target, request.id, cost), status)
        window = third.decode() if isinstance(third, bytes) else it.windows[third - 1].name if third else ""
        return Refused(RefusalReason(first.decode()), second / SECOND, window, status)

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
        it = self._targets[target]
        if not it.windows:
            return 0
        args: list[str | int] = [it.epoch, self._replica]
        for end in ends:
            args += end.reservation.id, end.actual.input, end.actual.output, end.how
        return int(self._run(_FINISH, it, *args))

    def close_gate(self, target: str, seconds: float, window: str) -> None:
        self._run(_GATE, self._targets[target], int(seconds * SECOND), window)

    def window_status(self, target: str) -> tuple[WindowStatus, ...]:
        it = self._targets[target]
        return self._status(it, self._run(_LEVELS, it)) if it.windows else ()

    def totals(self, target: str) -> QuotaTotals:
        found = self._client_command(
            "HMGET", self._targets[target].keys[0], "xs", "xr", "xd", "xl", "xi", "xo"
        )
        return QuotaTotals(*(int(it or 0) for it in found))

    def queue_stats(self, target: str) -> tuple[QueueStats, ...]:
        found = []
        above = 0
        rows = self._run(_DEPTHS, self._targets[target])
        for level, (waiting, oldest, eta, many, tenants, left) in zip(Priority, rows, strict=True):
            eta_s = eta / SECOND
            crowds = {}
            for name, own, waited, endings in tenants:
                part = part_in_turns(above, waiting, own, many)
                crowds[name.decode()] = TenantQueueStats(
                    own, waited / SECOND, eta_s * part, _endings(endings)
                )
            found.append(QueueStats(level, waiting, oldest / SECOND, eta_s, crowds, _endings(left)))
            above += waiting
        return tuple(found)

    def shut(self) -> None:
        """Hand everybody's place back: this process is going away."""
        for it in self._targets.values():
            for ticket in list(it.tickets.values()):
                ticket.leave(QueueOutcome.SHUTTING_DOWN)

    def dispatch(self, target: str) -> float:
        """Grant what fits to those who wait; seconds until the next would fit, 0 if nobody waits."""
        _, wait = self._run(_DISPATCH, self._targets[target])
        return float(wait / SECOND)

    def _run(self, script: Script, it: _Target, *args: str | bytes | float) -> Any:
        try:
            return script(self._client, it.keys, self._moment(), it.config(self._now()), *args)
        except ResponseError as error:
            if str(error).startswith("FORGOTTEN"):
                raise EpochMismatch from error
            if _CANNOT.match(str(error)):
                raise RedisUnavailable from error
            raise
        except RedisError as error:
            raise RedisUnavailable from error

    def _status(self, it: _Target, rest: list[int]) -> tuple[WindowStatus, ...]:
        at = it.days.at(self._now())
        return tuple(
            window_status(window, used, held, limit, at, end)
            for window, used, held, limit, end in zip(
                it.windows, rest[0::3], rest[1::3], rest[2::3], at.ends, strict=True
            )
        )

    def _now(self) -> int:
        return int(self._clock.now() * SECOND)

    # -- those who wait here ---------------------------------------------------------------------------------------

    def _forget(self, it: _Target, key: str) -> None:
        it.tickets.pop(key, None)
        it.waiters.pop(key, None)

    def _give_up(self, it: _Target, waiter: Waiter, ending: QueueOutcome) -> None:
        self._forget(it, waiter.id)
        try:
            if not self._run(_LEAVE, it, waiter.id, ending):
                # Granted in the same moment: the message is on its way and nobody will take it.
                self.release(Reservation(it.name, waiter.id, waiter.need))
        except (RedisUnavailable, EpochMismatch):
            pass  # the place goes with the state, or with the next join

    def _grant(self, it: _Target, key: str) -> None:
        ticket, waiter = it.tickets.get(key), it.waiters.get(key)
        self._forget(it, key)
        if ticket is not None and waiter is not None and not ticket.ended:
            self.on_grant(it.name, waiter)
            ticket.end(Granted(Reservation(it.name, key, waiter.need)))

    def _pump(self, it: _Target) -> None:
        """Dispatch whenever the head's turn comes, for as long as somebody waits here."""
        looked = self._clock.monotonic()
        try:
            while it.tickets:
                wait = self.dispatch(it.name)
                if self._clock.monotonic() - looked >= REFRESH_S and it.tickets:
                    looked = self._clock.monotonic()
                    self._look(it)
                it.changed.clear()
                if it.tickets:
                    it.changed.wait(min(wait, REFRESH_S) if wait else REFRESH_S)
        except RedisUnavailable:
            pass  # whoever asks next finds out, or the next heartbeat does
        finally:
            it.pumping = False

    def _look(self, it: _Target) -> None:
        """Bring positions and times up to date."""
        keys = list(it.tickets)
        head, count, last, *found = self._run(_PLACES, it, *keys)
        places = Places(head / SECOND, last / SECOND, dict(zip(keys, found, strict=True)))
        for key, position in places.positions.items():
            ticket = it.tickets.get(key)
            if ticket is not None and position:
                ticket.position, ticket.eta_s = position, places.eta_s(position, count)

    # -- as one of several replicas --------------------------------------------------------------------------------

    def listen(self) -> None:
        """Receive grants to waiters of this replica. Raises ``RedisUnavailable`` when the connection is lost."""
        pubsub = self._client.pubsub(ignore_subscribe_messages=True)
        try:
            pubsub.subscribe(f"kn:replica:{self._replica}")
            while True:
                message = pubsub.get_message(timeout=BEAT_S)
                if message is not None:
                    self._heard(message["data"])
        except RedisError as error:
            raise RedisUnavailable from error
        finally:
            pubsub.close()

    def _heard(self, data: bytes) -> None:
        prefix, what, key, *_ = msgspec.msgpack.decode(data)
        it = self._by_prefix.get(prefix)
        if it is None:
            return
        if what == "granted":
            self._grant(it, key)
        else:
            ticket = it.tickets.get(key)
            self._forget(it, key)
            if ticket is not None:
                ticket.end(Dequeued(QueueOutcome.SHED))

    def beat(self, target: str) -> HeartbeatReply:
        """Say that this replica lives; find grants whose message was lost; sweep the dead."""
        it = self._targets[target]
        keys = [key for key, ticket in it.tickets.items() if ticket.position]
        now, alive, left, window, *rest = self._run(
            _BEAT, it, self._replica, int(SILENCE_S * SECOND), it.epoch, *keys
        )
        seen, others = rest[: 3 * len(it.windows)], rest[3 * len(it.windows) :]
        for key, record in zip(others[0::2], others[1::2], strict=True):
            name = key.decode()
            ticket = it.tickets.get(name)
            if record:
                self._grant(it, name)
            elif ticket is not None:
                self._forget(it, name)
                ticket.end(Requeue())
        return HeartbeatReply(int(now), alive, Gate(left, window.decode()), self._status(it, seen))

    def join(self, target: str, spent: Callable[[bool], LocalUsage], gate_s: float) -> bool:
        """Join the state that Redis has, or begin one; whether it was new to this replica.

        ``spent`` is asked for all that this replica has spent (True), or what it has while it could not ask.
        """
        it = self._targets[target]
        while True:
            found = (self._client_command("HGET", it.keys[0], "ep") or b"").decode()
            new = found != it.epoch or not found
            bring = spent(new)
            joined = self._run(
                _JOIN,
                it,
                self._replica,
                int(SILENCE_S * SECOND),
                found,
                f"{self._replica}.{self._now()}",
                int(gate_s * SECOND),
                msgspec.msgpack.encode(
                    (
                        [[n for pair in it.items() for n in pair] for it in bring.charges],
                        bring.floors,
                        bring.limits,
                        [
                            (
                                waiter.id,
                                waiter.need.input,
                                waiter.need.output,
                                buckets,
                                int(waiter.level),
                                self._rules.weights.get(waiter.tenant, 1.0),
                                waiter.tenant,
                            )
                            for waiter, buckets in bring.live
                        ],
                        bring.finished,
                        bring.pending,
                        bring.gate.left_us,
                        bring.gate.window,
                    )
                ),
            ).decode()
            if joined == found or not found:
                it.epoch = joined
                for key, ticket in list(it.tickets.items()):
                    self._forget(it, key)
                    ticket.end(Requeue())
                return new

    def scatter(self) -> None:
        """Redis is gone: everybody who waits must ask again."""
        for it in self._targets.values():
            for key, ticket in list(it.tickets.items()):
                self._forget(it, key)
                ticket.end(Requeue())

    def ping(self) -> None:
        """Raises ``RedisUnavailable``."""
        self._client_command("PING")

    def _client_command(self, *args: str | bytes) -> Any:
        try:
            return self._client.execute_command(*args)
        except RedisError as error:
            raise RedisUnavailable from error
