"""One replica of several behind one quota: with Redis, without it, and on the way back.

    SHARED     the shared store decides; what it grants to this replica is mirrored in process
    DEGRADED   Redis is lost, slow or frozen: the mirror decides, within this replica's share of the quota
    REJOINING  Redis answers again: what was spent meanwhile is brought there before the first request

A mirror costs a few additions a request. With it a replica knows, at the moment of the loss, what it may still grant
without asking the others, and can tell a Redis that has come back empty what was spent. It also knows the latest gate
that a provider closed, at whichever replica: each heartbeat brings it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from itertools import islice
from typing import TypeVar

import gevent
import structlog
from gevent.event import Event
from gevent.lock import RLock
from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.core.supervision import Supervisor
from knowalledge.quota.commands import (
    EndedReservation,
    EpochMismatch,
    Gate,
    HeartbeatReply,
    LocalUsage,
    RedisUnavailable,
    ReservationOutcome,
)
from knowalledge.quota.domain.window import PACED_SPAN_S, SECOND, TokenCost, Window, WindowStatus
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import (
    Decision,
    QueueStats,
    QuotaStore,
    QuotaTotals,
    Reservation,
    ReservationRequest,
)
from knowalledge.quota.redis import HEARTBEAT_S, RedisQuotaStore

RECONNECT_S = 0.25  # how often a lost Redis is tried
# Redis that is lost again sooner than this after it was joined is tried again later each time, up to the second value.
STEADY_S, MAX_RECONNECT_S = 5.0, 2.0
# After a new state is joined nothing is granted for so long. Every replica has a heartbeat in this time, finds that the
# state is new to it, and brings what it has spent.
JOIN_PAUSE_S = HEARTBEAT_S + 0.5
# Ids of reservations that ended while degraded. Beyond it the oldest stay held until their lease ends.
MAX_ENDED = 50_000
MAX_ENDS_PER_CALL = 100  # Redis serves no other client while a script runs
JOIN_WAIT_S = 2.0  # how long a request waits for a join under way

T = TypeVar("T")


class ReplicaState(Enum):
    """Which store decides; see the module."""

    SHARED = "shared"
    DEGRADED = "degraded"
    REJOINING = "rejoining"


class _ClosedGate(Struct, frozen=True):
    """A gate that the provider closed, by the monotonic clock, which is never set."""

    until: float  # seconds, monotonic
    window: str


class _Outbox:
    """Ends of one target's reservations that Redis has not confirmed, in order."""

    def __init__(self) -> None:
        self.ends: deque[EndedReservation] = deque()
        # Sent or not when Redis was lost: it may have them, and may not.
        self.pending: deque[EndedReservation] = deque()
        self.filled = Event()

    def put(self, end: EndedReservation) -> None:
        self.ends.append(end)
        self.filled.set()

    def confirm(self, ends: tuple[EndedReservation, ...]) -> None:
        """Redis has these. They are gone from here if another greenlet has suspended the outbox meanwhile."""
        for end in ends:
            if self.ends and self.ends[0] is end:
                self.ends.popleft()

    def suspend(self) -> None:
        """Redis is lost."""
        self.pending.extend(self.ends)
        self.ends.clear()

    def resume(self) -> None:
        """Redis is back: what it may not have goes first."""
        self.ends.extendleft(reversed(self.pending))
        self.pending.clear()
        self.filled.set()


class ReplicaQuotaStore:
    """Implements ``QuotaStore`` over the shared store and its mirror."""

    def __init__(
        self,
        shared: RedisQuotaStore,
        mirror: MemoryQuotaStore,
        windows: Mapping[str, tuple[Window, ...]],
        clock: Clock,
        supervisor: Supervisor | None = None,
        on_loss: Callable[[str], None] = lambda _: None,
        expected_replicas: int = 1,
    ) -> None:
        """``supervisor`` runs what works beside requests. ``on_loss`` gets the reason why Redis is gone.

        ``expected_replicas``: how many share the quota, until this one has seen the others.
        """
        self.reason = (
            ""  # why Redis is gone: an error's class and, of a reply, its first word; "" while it is not
        )
        self._on_loss = on_loss
        self._shared_since = -STEADY_S  # monotonic
        self._flap_delay_s = 0.0
        self._supervisor = supervisor or Supervisor()
        self._shared = shared
        self._mirror = mirror
        self._clock = clock
        self._windows = {target: own for target, own in windows.items() if own}
        self._state = ReplicaState.SHARED
        self._joined: set[str] = set()  # targets whose state in Redis has what this replica spent
        self._join_lock = RLock()
        self._outboxes = {target: _Outbox() for target in self._windows}
        self._ended: deque[tuple[str, str]] = deque(maxlen=MAX_ENDED)  # target and id, while degraded
        self._charges_at_loss: dict[str, tuple[dict[int, int], ...]] = {}
        self._last_status = {target: mirror.window_status(target) for target in windows}
        self._gates = dict.fromkeys(self._windows, _ClosedGate(0.0, ""))  # the latest of each target
        self._replicas = self._expected_replicas = expected_replicas  # alive, as of the last heartbeat
        self._seen_since: float | None = None  # the first heartbeat, monotonic
        self._redis_clock_us = 0  # as of the last heartbeat
        self._greenlets: list[gevent.Greenlet[..., None]] = []
        self._log = structlog.get_logger()
        shared.on_grant = mirror.mirror_grant
        shared.on_unavailable = self._enter_degraded

    def start(self) -> None:
        """Begin to listen, to send heartbeats and to write; once, in the process that serves."""
        if not self._greenlets:
            repeat = self._supervisor.repeat
            self._greenlets = [
                repeat("quota.listen", self._listen),
                repeat("quota.heartbeat", self._send_heartbeats, HEARTBEAT_S),
                *(repeat("quota.write", partial(self._write, target)) for target in self._windows),
                self._supervisor.complete("quota.begin", self._begin),
            ]

    def stop(self) -> None:
        """Bring the last ends to Redis, and end what ``start`` began."""
        for target in self._windows:
            self._flush(target)
        self._supervisor.stop(*self._greenlets)
        self._greenlets = []

    def shut_down(self) -> None:
        """End every wait: this process is going away."""
        self._shared.shut_down()
        self._mirror.shut_down()

    @property
    def degraded(self) -> bool:
        """Whether this replica decides by its share alone."""
        return self._state is not ReplicaState.SHARED

    def reserve(self, target: str, request: ReservationRequest) -> Decision:
        if target in self._windows:
            for _ in range(2):
                if self._state is ReplicaState.REJOINING and self._join_lock.acquire(timeout=JOIN_WAIT_S):
                    self._join_lock.release()
                if self._state is not ReplicaState.SHARED:
                    break
                try:
                    if target not in self._joined:
                        self._join(target)
                    decision = self._shared.reserve(target, request)
                except EpochMismatch:
                    self._joined.discard(target)
                except RedisUnavailable as error:
                    self._enter_degraded(error)
                else:
                    self._record_status(target, decision.window_status)
                    return decision
        decision = self._mirror.reserve(target, request)
        return replace(decision, degraded=True) if target in self._windows else decision

    def settle(self, reservation: Reservation, actual: TokenCost) -> None:
        self._mirror.settle(reservation, actual)
        self._send(EndedReservation(reservation, ReservationOutcome.SETTLED, actual))

    def release(self, reservation: Reservation) -> None:
        self._mirror.release(reservation)
        self._send(EndedReservation(reservation, ReservationOutcome.RELEASED))

    def release_rejected(self, reservation: Reservation) -> None:
        self._mirror.release_rejected(reservation)
        self._send(EndedReservation(reservation, ReservationOutcome.REJECTED))

    def _send(self, end: EndedReservation) -> None:
        target = end.reservation.target
        if target in self._joined:
            self._outboxes[target].put(end)
        elif target in self._windows:
            self._ended.append((target, end.reservation.id))

    def close_gate(self, target: str, seconds: float, window: str) -> None:
        self._mirror.close_gate(target, seconds, window)
        if target not in self._windows:
            return
        self._record_gate(target, self._clock.monotonic() + seconds, window)
        # While it rejoins, what it brings may be under way already.
        if self._state is ReplicaState.SHARED or target in self._joined:
            try:
                self._shared.close_gate(target, seconds, window)
            except RedisUnavailable as error:
                self._enter_degraded(error)

    def window_status(self, target: str) -> tuple[WindowStatus, ...]:
        return self._read(target, lambda store: store.window_status(target))

    def totals(self, target: str) -> QuotaTotals:
        return self._read(target, lambda store: store.totals(target))

    def queue_stats(self, target: str) -> tuple[QueueStats, ...]:
        return self._read(target, lambda store: store.queue_stats(target))

    def _read(self, target: str, read: Callable[[QuotaStore], T]) -> T:
        """What the store that decides says."""
        if self._state is ReplicaState.SHARED and target in self._windows:
            try:
                return read(self._shared)
            except RedisUnavailable as error:
                self._enter_degraded(error)
        return read(self._mirror)

    def _record_status(self, target: str, status: tuple[WindowStatus, ...]) -> None:
        self._last_status[target] = status
        if target in self._windows:
            self._mirror.record_sync(target)

    # -- the loss of Redis, and the way back -----------------------------------------------------------------------

    def _enter_degraded(self, error: RedisUnavailable) -> None:
        """Redis is lost: from here on this replica's own share decides."""
        if self._state is not ReplicaState.SHARED:
            return
        self._state = ReplicaState.DEGRADED
        self._supervisor.complete("quota.rejoin", self._leave_degraded)
        self._record_reason(error)
        for target in self._windows:
            self._charges_at_loss[target] = self._mirror.charges(target)
            self._mirror.enter_degraded(target, self._last_status[target], self._replicas)
            gate = self._gate(target)
            if gate.left_us:
                self._mirror.close_gate(target, gate.left_us / SECOND, gate.window)
        self._suspend()
        self._shared.requeue_all()

    def _suspend(self) -> None:
        """Redis may not have what was sent last."""
        self._joined.clear()
        for outbox in self._outboxes.values():
            outbox.suspend()

    def _leave_degraded(self) -> None:
        """Try Redis until it answers, then bring it what was spent."""
        delay_s = RECONNECT_S
        if self._clock.monotonic() - self._shared_since < STEADY_S:
            # It says that it can be written to, and then cannot.
            delay_s = self._flap_delay_s = min(MAX_RECONNECT_S, 2 * max(self._flap_delay_s, RECONNECT_S))
        else:
            self._flap_delay_s = 0.0
        while self._state is not ReplicaState.SHARED:
            gevent.sleep(delay_s)
            delay_s = RECONNECT_S
            try:
                self._shared.probe()
                with self._join_lock:
                    self._state = ReplicaState.REJOINING
                    for target in self._windows:
                        # A grant of the mirror would come too late to be among what is brought.
                        self._mirror.requeue_all(target)
                    for target in self._windows:
                        self._join(target)
                    self._state = ReplicaState.SHARED
            except RedisUnavailable as error:
                self._stay_degraded()
                self._record_reason(error)
            except BaseException:  # requests must not wait for a join that is not under way
                self._stay_degraded()
                raise
        self._ended.clear()
        for outbox in self._outboxes.values():
            outbox.resume()
        self._shared_since, self.reason = self._clock.monotonic(), ""
        self._log.warning("redis is back")
        for target in self._windows:
            self._mirror.leave_degraded(target)

    def _record_reason(self, error: RedisUnavailable) -> None:
        """Log and count why Redis is gone, whenever that changes."""
        reason = str(error)
        if reason != self.reason:
            self.reason = reason
            self._log.warning("redis is gone", reason=reason, replicas=self._replicas)
            self._on_loss(reason)

    def _stay_degraded(self) -> None:
        self._state = ReplicaState.DEGRADED
        self._suspend()

    def _join(self, target: str) -> None:
        """Raises ``RedisUnavailable``."""
        with self._join_lock:
            if target in self._joined:
                return  # another greenlet has done it meanwhile

            def usage_of(everything: bool) -> LocalUsage:
                # What ends from here on is live in what is brought, so its end must follow.
                self._joined.add(target)
                return self._local_usage(target, everything)

            idle = not any(self._mirror.charges(target)) and not self._mirror.live(target)
            try:
                new = self._shared.join(target, usage_of, 0.0 if idle else JOIN_PAUSE_S)
            except BaseException:
                self._joined.discard(target)
                raise
            if new and not idle:
                self._log.warning("joined a new state", target=target)

    def _join_or_degrade(self, target: str) -> None:
        """The state in Redis is another one."""
        self._joined.discard(target)
        try:
            self._join(target)
        except RedisUnavailable as error:
            self._enter_degraded(error)

    def _local_usage(self, target: str, everything: bool) -> LocalUsage:
        """What this replica has spent: everything, or what it has since the loss."""
        last_status, charges = self._last_status[target], self._mirror.charges(target)
        floors = (0,) * len(last_status)
        if everything:
            # Short windows turn over before the sum of all replicas matters.
            floors = tuple(it.used if it.window.span_s > PACED_SPAN_S else 0 for it in last_status)
        else:
            at_loss = self._charges_at_loss.get(target, charges)
            charges = tuple(_difference(now, before) for now, before in zip(charges, at_loss, strict=True))
        return LocalUsage(
            charges=charges,
            floors=floors,
            limits=tuple(it.limit for it in last_status),
            live=tuple(self._mirror.live(target).values()),
            finished=tuple(ended_id for of, ended_id in self._ended if of == target),
            pending=tuple(end.reservation.id for end in self._outboxes[target].pending),
            gate=self._gate(target),
            is_new=everything,
        )

    def _gate(self, target: str) -> Gate:
        """What is left of the latest gate that this replica knows."""
        gate = self._gates[target]
        left_us = int((gate.until - self._clock.monotonic()) * SECOND)
        return Gate(left_us, gate.window) if left_us > 0 else Gate()

    @property
    def has_joined(self) -> bool:
        """Whether Redis has ever been reached."""
        return self._seen_since is not None

    @property
    def has_seen_others(self) -> bool:
        """Whether the number of replicas is known: each has had a heartbeat's time to appear beside this one."""
        since = self._seen_since
        return since is not None and self._clock.monotonic() - since >= JOIN_PAUSE_S

    # -- in the background -----------------------------------------------------------------------------------------

    def _begin(self) -> None:
        """Join before the first request does: a Redis that is away is then known, and the others know this replica."""
        try:
            for target in self._windows:
                if self._state is ReplicaState.SHARED:
                    self._join(target)
        except RedisUnavailable as error:
            self._enter_degraded(error)
        self._send_heartbeats()

    def _listen(self) -> None:
        try:
            self._shared.listen()
        except RedisUnavailable:
            gevent.sleep(RECONNECT_S)

    def _send_heartbeats(self) -> None:
        for target in list(self._joined):
            if self._state is not ReplicaState.SHARED:
                return
            sent_at = self._clock.monotonic()
            try:
                reply = self._shared.heartbeat(target)
            except EpochMismatch:
                self._join_or_degrade(target)
            except RedisUnavailable as error:
                self._enter_degraded(error)
            else:
                self._record_heartbeat(target, sent_at, reply)

    def _record_heartbeat(self, target: str, sent_at: float, reply: HeartbeatReply) -> None:
        if self._seen_since is None:
            self._seen_since = self._clock.monotonic()
        # Replicas that start together do not see each other at once.
        self._replicas = (
            reply.replicas if self.has_seen_others else max(reply.replicas, self._expected_replicas)
        )
        self._record_status(target, reply.window_status)
        self._record_redis_clock(reply.clock_us)
        # Counted from before the call: not later than what the provider said.
        self._record_gate(target, sent_at + reply.gate.left_us / SECOND, reply.gate.window)

    def _record_redis_clock(self, us: int) -> None:
        """A step backwards is logged once; the ledger lives with it."""
        if us < self._redis_clock_us - SECOND:
            seconds = (self._redis_clock_us - us) // SECOND
            self._log.warning("redis' clock has stepped back", seconds=seconds)
        self._redis_clock_us = us
        self._mirror.skew_us = us - int(self._clock.now() * SECOND)

    def _record_gate(self, target: str, until: float, window: str) -> None:
        if until > self._gates[target].until:
            self._gates[target] = _ClosedGate(until, window)

    def _write(self, target: str) -> None:
        """Bring ends to Redis, off the path of the answers."""
        outbox = self._outboxes[target]
        outbox.filled.wait()
        outbox.filled.clear()
        try:
            self._flush(target)
        except BaseException:
            outbox.filled.set()  # they are still here: the next run brings them
            raise

    def _flush(self, target: str) -> None:
        """The first end goes at once; those that gather during a call go together in the next."""
        outbox = self._outboxes[target]
        while outbox.ends and self._state is ReplicaState.SHARED:
            ends = tuple(islice(outbox.ends, MAX_ENDS_PER_CALL))
            try:
                self._shared.finish(target, ends)
            except EpochMismatch:
                self._join_or_degrade(target)
            except RedisUnavailable as error:
                self._enter_degraded(error)
            else:
                outbox.confirm(ends)


def _difference(now: dict[int, int], before: dict[int, int]) -> dict[int, int]:
    """What was charged since ``before``, by bucket, of the buckets that have not left the window."""
    oldest = min(now, default=None)
    return {
        bucket: amount
        for bucket in now.keys() | before.keys()
        if (amount := now.get(bucket, 0) - before.get(bucket, 0)) and (oldest is None or bucket >= oldest)
    }
