"""The quota's Lua scripts as typed calls: arguments in order, replies decoded, errors named."""

from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import astuple

from knowalledge.core.context import Priority
from knowalledge.net.redis.errors import REDIS_ERRORS, UnexpectedReply, error_word, may_be_half_done, reason
from knowalledge.net.redis.probe import try_write
from knowalledge.net.redis.scripts import CommandExecutor, Script
from knowalledge.quota.domain.admission import Positions, RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, TenantQueueStats, Waiter, eta_share
from knowalledge.quota.domain.window import SECOND, Moment, TokenCost, WindowStatus, window_status
from knowalledge.quota.ports import QueueStats, QuotaTotals, Reservation
from knowalledge.quota.schema import (
    CONSTANTS,
    EPOCH_MISMATCH,
    LAYOUT_MISMATCH,
    REPLY_GRANTED,
    REPLY_QUEUED,
    Field,
    LiveRecord,
    LocalUsageRecord,
    StoredTarget,
)

T = TypeVar("T")
# The reason for which a replica is refused that would read another's buckets as its own.
OTHER_WINDOWS = (
    "other windows: living replicas keep this target with other windows; give one of them a redis.prefix"
)


class RedisUnavailable(Exception):
    """Redis does not answer, not in time, with an error, or with what cannot be decoded; the message is the reason."""


class EpochMismatch(Exception):
    """Redis answers, but its state is not the one that this replica has joined."""


def _script(name: str) -> Script:
    return Script.load("knowalledge.quota", name, "_ledger", "_queue", constants=CONSTANTS)


class QuotaScripts(Struct, frozen=True):
    """The scripts of one version."""

    reserve: Script
    finish: Script
    dispatch: Script
    leave: Script
    heartbeat: Script
    join: Script
    close_gate: Script
    window_status: Script
    queue_stats: Script
    positions: Script


# Apart, because a rolling update needs no older one.
_RESET, _RENEW = _script("reset"), _script("renew")
SCRIPTS = QuotaScripts(**{name: _script(name) for name in QuotaScripts.__struct_fields__})


class Gate(Struct, frozen=True):
    """The provider wants no request for ``left_us``: a time that is left, since two machines' clocks differ."""

    left_us: int = 0
    window: str = ""  # that the provider named


class ReservationOutcome(StrEnum):
    """How a reservation ended; the value is the field that counts it."""

    SETTLED = Field.SETTLED.value
    RELEASED = Field.RELEASED.value
    REJECTED = Field.REJECTED.value  # by the provider


class EndedReservation(Struct, frozen=True):
    """A reservation's end."""

    reservation: Reservation
    outcome: ReservationOutcome
    actual: TokenCost = TokenCost(0, 0)


class LocalUsage(Struct, frozen=True):
    """What a replica brings when it joins a state; see ``join.lua``."""

    charges: tuple[dict[int, int], ...]  # per window, by bucket
    floors: tuple[int, ...]  # per window
    limits: tuple[int, ...]  # per window
    live: tuple[tuple[Waiter, tuple[int, ...]], ...]  # with the buckets of each charge
    finished: tuple[str, ...]  # ids
    pending: tuple[str, ...] = ()  # ids
    gate: Gate = Gate()
    is_new: bool = False  # whether the state is new to this replica


# -- replies -------------------------------------------------------------------------------------------------------


class GrantedReply(Struct, frozen=True):
    window_status: tuple[WindowStatus, ...]


class QueuedReply(Struct, frozen=True):
    position: int  # from 1
    eta_us: int
    arrived: int
    window_status: tuple[WindowStatus, ...]


class RefusedReply(Struct, frozen=True):
    reason: RefusalReason
    eta_us: int
    window: str
    window_status: tuple[WindowStatus, ...]


ReserveReply = GrantedReply | QueuedReply | RefusedReply


class DispatchReply(Struct, frozen=True):
    granted: int  # how many
    wait_us: int  # until the next would be granted; 0: none waits


class HeartbeatReply(Struct, frozen=True):
    clock_us: int  # Redis' own
    replicas: int  # alive
    gate: Gate
    window_status: tuple[WindowStatus, ...]
    # Asked ids that wait no more: of those that were granted, the bucket of each window's charge; else ().
    ended: tuple[tuple[str, tuple[int, ...]], ...]


def decode_window_status(reply: Sequence[int], target: StoredTarget, at: Moment) -> tuple[WindowStatus, ...]:
    """Per window: used, held, limit."""
    each = zip(target.windows, reply[0::3], reply[1::3], reply[2::3], at.ends, strict=True)
    # A list is made in half the time of a generator.
    return tuple(
        [window_status(window, used, held, limit, at, ends) for window, used, held, limit, ends in each]
    )


def decode_reserve(reply: Sequence[Any], target: StoredTarget, at: Moment) -> ReserveReply:
    """Kind, three values of which the kind says the meaning, and the windows' status."""
    kind, first, eta_us, third = reply[:4]
    status = decode_window_status(reply[4:], target, at)
    if kind == REPLY_GRANTED:
        return GrantedReply(status)
    if kind == REPLY_QUEUED:
        return QueuedReply(first, eta_us, third, status)
    return RefusedReply(RefusalReason(first.decode()), eta_us, _window_name(third, target), status)


def _window_name(waits_for: int | bytes, target: StoredTarget) -> str:
    """By a window's number from 1, 0 for none, or by the name that the gate was closed with."""
    if isinstance(waits_for, bytes):
        return waits_for.decode()
    return target.windows[waits_for - 1].name if waits_for else ""


def decode_positions(reply: Sequence[int], ids: Iterable[str]) -> Positions:
    """ETA of the first waiter, number of waiters, ETA of the last, and each id's position (0: it does not wait)."""
    first_us, waiting, last_us, *positions = reply
    by_id = {waiter_id: position for waiter_id, position in zip(ids, positions, strict=True) if position}
    return Positions(first_us / SECOND, last_us / SECOND, by_id, waiting)


def decode_heartbeat(reply: Sequence[Any], target: StoredTarget, at: Moment) -> HeartbeatReply:
    """Clock, replicas, gate and its window, the windows' status, and pairs of an id and its LiveRecord or nothing."""
    clock, replicas, left_us, window, *rest = reply
    split = 3 * len(target.windows)
    status, ended = rest[:split], rest[split:]
    return HeartbeatReply(
        clock_us=int(clock),
        replicas=replicas,
        gate=Gate(left_us, window.decode()),
        window_status=decode_window_status(status, target, at),
        ended=tuple(
            (key.decode(), _buckets(record)) for key, record in zip(ended[0::2], ended[1::2], strict=True)
        ),
    )


def _buckets(packed: bytes) -> tuple[int, ...]:
    """Of a packed LiveRecord; () of none."""
    return tuple(msgspec.msgpack.decode(packed)[2]) if packed else ()


def decode_queue_stats(reply: Sequence[Any]) -> tuple[QueueStats, ...]:
    """Per level: waiting, age of the oldest, ETA, tenants that wait, [tenant, waiting, age, outcomes]s, outcomes."""
    stats = []
    above = 0
    for level, (waiting, oldest_us, eta_us, tenants_waiting, tenants, left) in zip(
        Priority, reply, strict=True
    ):
        eta_s = eta_us / SECOND
        by_tenant = {}
        for tenant, own, age_us, outcomes in tenants:
            part = eta_share(above, waiting, own, tenants_waiting)
            by_tenant[tenant.decode()] = TenantQueueStats(
                own, age_us / SECOND, eta_s * part, _decode_outcomes(outcomes)
            )
        stats.append(QueueStats(level, waiting, oldest_us / SECOND, eta_s, by_tenant, _decode_outcomes(left)))
        above += waiting
    return tuple(stats)


def _decode_outcomes(pairs: Sequence[Any]) -> dict[QueueOutcome, int]:
    return {QueueOutcome(it.decode()): n for it, n in zip(pairs[0::2], pairs[1::2], strict=True)}


# -- calls ---------------------------------------------------------------------------------------------------------


class QuotaCommands:
    """The scripts, called for one replica.

    Every call raises ``RedisUnavailable`` for whatever Redis says but a script's reply, and those that name an epoch
    ``EpochMismatch``: an error that we do not know must not be a caller's.
    """

    def __init__(
        self,
        client: CommandExecutor,
        rules: QueueRules,
        replica: str,
        now: Callable[[], int],
        redis_now: Callable[[], str] = lambda: "",
        scripts: QuotaScripts = SCRIPTS,
        prefix: str = "",
    ) -> None:
        """``now``: microseconds. ``redis_now``: in a test, microseconds in place of Redis' clock; "" for that."""
        self._client = client
        self._rules = rules
        self._replica = replica
        self._now = now
        self._redis_now = redis_now
        self._scripts, self._prefix = scripts, prefix
        # Targets whose state a script may have left half written.
        self.broken: set[str] = set()

    def reserve(self, target: StoredTarget, epoch: str, waiter: Waiter, patience_s: float) -> ReserveReply:
        at = target.at(self._now())
        reply = self._run(
            self._scripts.reserve,
            target,
            at,
            waiter.id,
            int(waiter.level),
            waiter.cost.input,
            waiter.cost.output,
            int(patience_s * SECOND),
            self._replica,
            self._rules.weights.get(waiter.tenant, 1.0),
            waiter.tenant,
            waiter.arrived,
            epoch,
        )
        return _decoded(decode_reserve, reply, target, at)

    def finish(self, target: StoredTarget, epoch: str, ends: Iterable[EndedReservation]) -> int:
        """End reservations in this order; how many had not ended before."""
        args: list[str | int] = [epoch, self._replica]
        for end in ends:
            args += end.reservation.id, end.actual.input, end.actual.output, end.outcome
        return _decoded(int, self._call(self._scripts.finish, target, *args))

    def dispatch(self, target: StoredTarget) -> DispatchReply:
        return _decoded(lambda reply: DispatchReply(*reply), self._call(self._scripts.dispatch, target))

    def leave(self, target: StoredTarget, request_id: str, outcome: QueueOutcome) -> bool:
        """False: the request waits no more."""
        return bool(self._call(self._scripts.leave, target, request_id, outcome))

    def close_gate(self, target: StoredTarget, seconds: float, window: str) -> None:
        self._call(self._scripts.close_gate, target, int(seconds * SECOND), window)

    def window_status(self, target: StoredTarget) -> tuple[WindowStatus, ...]:
        at = target.at(self._now())
        return _decoded(decode_window_status, self._run(self._scripts.window_status, target, at), target, at)

    def queue_stats(self, target: StoredTarget) -> tuple[QueueStats, ...]:
        return _decoded(decode_queue_stats, self._call(self._scripts.queue_stats, target))

    def positions(self, target: StoredTarget, ids: Sequence[str]) -> Positions:
        return _decoded(decode_positions, self._call(self._scripts.positions, target, *ids), ids)

    def heartbeat(
        self, target: StoredTarget, epoch: str, lease_s: float, waiting: Iterable[str]
    ) -> HeartbeatReply:
        """Renew this replica's lease, which ends after ``lease_s``; ask about the ids that wait here."""
        at = target.at(self._now())
        reply = self._run(
            self._scripts.heartbeat, target, at, self._replica, int(lease_s * SECOND), epoch, *waiting
        )
        return _decoded(decode_heartbeat, reply, target, at)

    def join(
        self, target: StoredTarget, epoch: str, lease_s: float, pause_s: float, usage: LocalUsage
    ) -> str:
        """Join the state that ``epoch`` names, or begin one if it is empty; the epoch of the state in Redis.

        If there was another state than the one named, nothing was joined.
        """
        reply = self._call(
            self._scripts.join,
            target,
            self._replica,
            int(lease_s * SECOND),
            epoch,
            f"{self._replica}.{self._now()}",
            int(pause_s * SECOND),
            self._packed(usage),
            target.layout,
        )
        return _decoded(_text, reply)

    def renew(self, target: StoredTarget, epoch: str, request_id: str) -> bool:
        """Charge a grant as of now; False if it is not to be spent."""
        return _decoded(bool, self._call(_RENEW, target, epoch, self._replica, request_id))

    def reset(self, target: StoredTarget, epoch: str) -> None:
        """Remove a broken state, if it is still the one that ``epoch`` names."""
        self._call(_RESET, target, epoch, self._replica)
        self.broken.discard(target.name)

    def _packed(self, usage: LocalUsage) -> bytes:
        live: list[tuple[object, ...]] = [
            (
                waiter.id,
                *astuple(
                    LiveRecord(
                        input=waiter.cost.input,
                        output=waiter.cost.output,
                        buckets=buckets,
                        level=int(waiter.level),
                        weight=self._rules.weights.get(waiter.tenant, 1.0),
                        tenant=waiter.tenant,
                    )
                ),
            )
            for waiter, buckets in usage.live
        ]
        return msgspec.msgpack.encode(
            LocalUsageRecord(
                charges=[[n for pair in by_bucket.items() for n in pair] for by_bucket in usage.charges],
                floors=usage.floors,
                limits=usage.limits,
                live=live,
                finished=usage.finished,
                pending=usage.pending,
                gate_us=usage.gate.left_us,
                gate_window=usage.gate.window,
                is_new=usage.is_new,
            )
        )

    def epoch(self, target: StoredTarget) -> str:
        """The epoch of the state in Redis; "" if there is none."""
        try:
            stored = self._client.execute_command("HGET", target.keys[0], Field.EPOCH)
        except REDIS_ERRORS as error:
            self._record_broken(target, error)
            raise RedisUnavailable(reason(error)) from error
        return _decoded(_text, stored or b"")

    def totals(self, target: StoredTarget) -> QuotaTotals:
        counters = self._execute("HMGET", target.keys[0], *(field for field, _ in _TOTALS))
        return _decoded(_totals, counters)

    def probe(self) -> None:
        """Try a write."""
        try:
            try_write(self._client, self._prefix)
        except REDIS_ERRORS as error:
            raise RedisUnavailable(reason(error)) from error

    def _call(self, script: Script, target: StoredTarget, *args: str | bytes | float) -> Any:
        return self._run(script, target, target.at(self._now()), *args)

    def _run(self, script: Script, target: StoredTarget, at: Moment, *args: str | bytes | float) -> Any:
        try:
            return script(self._client, target.keys, self._redis_now(), target.config(at), *args)
        except REDIS_ERRORS as error:
            if str(error).startswith(EPOCH_MISMATCH):
                raise EpochMismatch from error
            if str(error).startswith(LAYOUT_MISMATCH):
                # Whom nobody else keeps is begun anew.
                if str(error) == f"{LAYOUT_MISMATCH} 0":
                    self.broken.add(target.name)
                raise RedisUnavailable(OTHER_WINDOWS) from error
            self._record_broken(target, error)
            raise RedisUnavailable(reason(error)) from error

    def _record_broken(self, target: StoredTarget, error: BaseException) -> None:
        if may_be_half_done(error) or error_word(error) == "WRONGTYPE":
            self.broken.add(target.name)

    def _execute(self, *args: str | bytes) -> Any:
        try:
            return self._client.execute_command(*args)
        except REDIS_ERRORS as error:
            raise RedisUnavailable(reason(error)) from error


def _decoded(decode: Callable[..., T], reply: Any, *args: Any) -> T:
    """A decoded reply. What is not a script's reply comes from something that is not our Redis."""
    try:
        return decode(reply, *args)
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise RedisUnavailable(f"{UnexpectedReply.__name__} {type(error).__name__}") from error


def _text(reply: bytes) -> str:
    return reply.decode()


def _totals(counters: Sequence[bytes | None]) -> QuotaTotals:
    return QuotaTotals(**{name: int(count or 0) for (_, name), count in zip(_TOTALS, counters, strict=True)})


_TOTALS = (
    (Field.SETTLED, "settled"),
    (Field.RELEASED, "released"),
    (Field.REFUSED, "refused"),
    (Field.REJECTED, "rejected"),
    (Field.DRIFT_INPUT, "drift_input"),
    (Field.DRIFT_OUTPUT, "drift_output"),
)
