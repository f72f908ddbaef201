"""One replica of several behind one quota: with Redis, without it, and on the way back.

    JOINED   the shared store decides; what it grants to this replica is mirrored in process
    ALONE    Redis is gone, slow or frozen: the mirror decides, within this replica's part of the quota
    JOINING  Redis answers again: what was spent meanwhile is brought there before anybody asks it

A mirror costs a few additions a request. For it, a replica knows at the moment of the loss what it may still take
without asking anybody, and can tell a Redis that has come back empty what has been spent. It also knows until when the
provider wants nothing, whichever replica was told so: each heartbeat says it.
"""

from collections import deque
from collections.abc import Callable, Mapping
from enum import Enum
from functools import partial
from itertools import islice

import gevent
import structlog
from gevent.event import Event
from gevent.lock import RLock
from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.quota.commands import (
    EndedReservation,
    EpochMismatch,
    Gate,
    LocalUsage,
    RedisUnavailable,
    ReservationOutcome,
)
from knowalledge.quota.domain.window import PACED_SPAN_S, SECOND, TokenCost, Window, WindowStatus
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Decision, QueueStats, QuotaTotals, Reservation, ReservationRequest
from knowalledge.quota.redis import BEAT_S, RedisQuotaStore

PROBE_S = 0.25  # how often a lost Redis is looked for
# For so long nobody is granted anything after a state is joined anew: every replica beats once in this time, finds
# that the state is new to it, and brings what it has spent.
GATE_S = BEAT_S + 0.5
# Reservations that ended while Redis was gone, remembered by id; beyond it the eldest stay held until their lease ends.
ENDED = 50_000
TOGETHER = 100  # ends that one script call brings, at most: for so long Redis serves nobody else
PATIENCE_S = 2.0  # for a join that is under way


class State(Enum):
    JOINED = "joined"
    ALONE = "alone"
    JOINING = "joining"


class _Closed(Struct, frozen=True):
    """Until when the provider wants nothing, by the one clock of ours that nobody sets."""

    until: float  # seconds, monotonic
    window: str


class _Outbox:
    """The reservations of one target that have ended and of which Redis must be told, in order."""

    def __init__(self) -> None:
        self.ends: deque[EndedReservation] = deque()
        self.pending: deque[EndedReservation] = (
            deque()
        )  # Redis may have heard of them, and may not, when it was lost
        self.more = Event()

    def put(self, end: EndedReservation) -> None:
        self.ends.append(end)
        self.more.set()

    def told(self, ends: tuple[EndedReservation, ...]) -> None:
        """Redis has heard of these. They are gone from here already if it was lost meanwhile to somebody else."""
        for end in ends:
            if self.ends and self.ends[0] is end:
                self.ends.popleft()

    def lose(self) -> None:
        self.pending.extend(self.ends)
        self.ends.clear()

    def again(self) -> None:
        """Redis is back: what it may not have heard of goes first."""
        self.ends.extendleft(reversed(self.pending))
        self.pending.clear()
        self.more.set()


class ReplicaQuotaStore:
    """Implements ``QuotaStore`` over the shared store and its mirror."""

    def __init__(
        self,
        shared: RedisQuotaStore,
        mirror: MemoryQuotaStore,
        windows: Mapping[str, tuple[Window, ...]],
        clock: Clock,
    ) -> None:
        self._shared = shared
        self._mirror = mirror
        self._clock = clock
        self._windows = {target: found for target, found in windows.items() if found}
        self._joined: set[str] = set()
        self._state = State.JOINED
        self._lock = RLock()
        self._out = {target: _Outbox() for target in self._windows}
        self._ended: deque[tuple[str, str]] = deque(maxlen=ENDED)
        self._before: dict[str, tuple[dict[int, int], ...]] = {}  # charges at the moment of the loss
        self._seen: dict[str, tuple[WindowStatus, ...]] = {
            target: mirror.window_status(target) for target in windows
        }
        # What the provider has said, to whichever replica.
        self._closed = dict.fromkeys(self._windows, _Closed(0.0, ""))
        self._alive = 1
        self._clock_us = 0  # Redis' own, as of the last beat
        self._running: list[gevent.Greenlet[..., None]] = []
        self._log = structlog.get_logger()
        shared.on_grant = mirror.record

    def start(self) -> None:
        """Begin to listen, to beat and to write; once, in the process that serves."""
        if not self._running:
            writes = (partial(self._write, target) for target in self._windows)
            loops: tuple[Callable[[], None], ...] = (self._listen, self._beats, *writes)
            self._running = [gevent.spawn(loop) for loop in loops]

    def stop(self) -> None:
        for target in self._windows:
            self._drain(target)
        gevent.killall(self._running)
        self._running = []

    @property
    def degraded(self) -> bool:
        """Whether this replica decides by its own part alone."""
        return self._state is not State.JOINED

    def reserve(self, target: str, request: ReservationRequest) -> Decision:
        if target in self._windows:
            for _ in range(2):
                if self._state is State.JOINING and self._lock.acquire(timeout=PATIENCE_S):
                    self._lock.release()
                if self._state is not State.JOINED:
                    break
                try:
                    if target not in self._joined:
                        self._join(target)
                    decision = self._shared.reserve(target, request)
                except EpochMismatch:
                    self._joined.discard(target)
                except RedisUnavailable:
                    self._lose()
                else:
                    self._look(target, decision.window_status)
                    return decision
        decision = self._mirror.reserve(target, request)
        return replace(decision, degraded=True) if target in self._windows else decision

    def settle(self, reservation: Reservation, actual: TokenCost) -> None:
        self._mirror.settle(reservation, actual)
        self._end(EndedReservation(reservation, ReservationOutcome.SETTLED, actual))

    def release(self, reservation: Reservation) -> None:
        self._mirror.release(reservation)
        self._end(EndedReservation(reservation, ReservationOutcome.RELEASED))

    def release_rejected(self, reservation: Reservation) -> None:
        self._mirror.release_rejected(reservation)
        self._end(EndedReservation(reservation, ReservationOutcome.REJECTED))

    def _end(self, end: EndedReservation) -> None:
        target = end.reservation.target
        if target in self._joined:
            self._out[target].put(end)
        elif target in self._windows:
            self._ended.append((target, end.reservation.id))

    def close_gate(self, target: str, seconds: float, window: str) -> None:
        self._mirror.close_gate(target, seconds, window)
        if target not in self._windows:
            return
        self._heard_gate(target, self._clock.monotonic() + seconds, window)
        # While it joins, what it brings may be on its way already.
        if self._state is State.JOINED or target in self._joined:
            try:
                self._shared.close_gate(target, seconds, window)
            except RedisUnavailable:
                self._lose()

    def window_status(self, target: str) -> tuple[WindowStatus, ...]:
        if self._state is State.JOINED:
            try:
                return self._shared.window_status(target)
            except RedisUnavailable:
                self._lose()
        return self._mirror.window_status(target)

    def totals(self, target: str) -> QuotaTotals:
        if self._state is State.JOINED and target in self._windows:
            try:
                return self._shared.totals(target)
            except RedisUnavailable:
                self._lose()
        return self._mirror.totals(target)

    def queue_stats(self, target: str) -> tuple[QueueStats, ...]:
        if self._state is State.JOINED and target in self._windows:
            try:
                return self._shared.queue_stats(target)
            except RedisUnavailable:
                self._lose()
        return self._mirror.queue_stats(target)

    def shut(self) -> None:
        self._shared.shut()
        self._mirror.shut()

    def _look(self, target: str, levels: tuple[WindowStatus, ...]) -> None:
        self._seen[target] = levels
        if target in self._windows:
            self._mirror.looked(target)

    # -- the loss, and the way back --------------------------------------------------------------------------------

    def _lose(self) -> None:
        """Redis is gone: from here on by this replica's own part."""
        if self._state is not State.JOINED:
            return
        self._state = State.ALONE
        self._log.warning("redis is gone", replicas=self._alive)
        for target in self._windows:
            self._before[target] = self._mirror.charges(target)
            self._mirror.part(target, self._seen[target], self._alive)
            gate = self._gate(target)
            if gate.left_us:
                self._mirror.close_gate(target, gate.left_us / SECOND, gate.window)
        self._forget()
        self._shared.scatter()
        gevent.spawn(self._return)

    def _forget(self) -> None:
        """What Redis was told last it may not have heard."""
        self._joined.clear()
        for out in self._out.values():
            out.lose()

    def _return(self) -> None:
        """Look for Redis until it answers, then bring it what was spent."""
        while self._state is not State.JOINED:
            gevent.sleep(PROBE_S)
            try:
                self._shared.ping()
                with self._lock:
                    self._state = State.JOINING
                    for target in self._windows:
                        # A grant to one who waits here would come too late to be among what we bring.
                        self._mirror.scatter(target)
                    for target in self._windows:
                        self._join(target)
                    self._state = State.JOINED
            except RedisUnavailable:
                self._state = State.ALONE
                self._forget()
        self._ended.clear()
        for out in self._out.values():
            out.again()
        self._log.warning("redis is back")
        for target in self._windows:
            self._mirror.join(target)

    def _join(self, target: str) -> None:
        with self._lock:
            if target in self._joined:
                return  # another greenlet has done it meanwhile

            def spent(everything: bool) -> LocalUsage:
                # What ends from here on is live in what we bring, so its end must follow.
                self._joined.add(target)
                return self._spent(target, everything)

            idle = not any(self._mirror.charges(target)) and not self._mirror.live(target)
            try:
                new = self._shared.join(target, spent, 0.0 if idle else GATE_S)
            except RedisUnavailable:
                self._joined.discard(target)
                raise
            if new and not idle:
                self._log.warning("joined a new state", target=target)

    def _spent(self, target: str, everything: bool) -> LocalUsage:
        """What this replica has to tell: all of it, or what has come since the loss."""
        windows = self._windows[target]
        charges = self._mirror.charges(target)
        floors = [0] * len(windows)
        if everything:
            floors = [level.used if level.window.span_s > PACED_SPAN_S else 0 for level in self._seen[target]]
        else:
            charges = tuple(
                {
                    bucket: now.get(bucket, 0) - then.get(bucket, 0)
                    for bucket in now.keys() | then.keys()
                    if now.get(bucket, 0) != then.get(bucket, 0) and bucket >= min(now, default=bucket)
                }
                for now, then in zip(charges, self._before.get(target, charges), strict=True)
            )
        live = tuple(self._mirror.live(target).values())
        ended = tuple(key for of, key in self._ended if of == target)
        pending = tuple(it.reservation.id for it in self._out[target].pending)
        limits = tuple(it.limit for it in self._seen[target])
        return LocalUsage(charges, tuple(floors), limits, live, ended, pending, self._gate(target))

    def _gate(self, target: str) -> Gate:
        """What is left of the latest gate that this replica knows."""
        closed = self._closed[target]
        left_us = int((closed.until - self._clock.monotonic()) * SECOND)
        return Gate(left_us, closed.window) if left_us > 0 else Gate()

    # -- in the background -----------------------------------------------------------------------------------------

    def _listen(self) -> None:
        while True:
            try:
                self._shared.listen()
            except RedisUnavailable:
                gevent.sleep(PROBE_S)

    def _beats(self) -> None:
        while True:
            if self._state is State.JOINED:
                for target in list(self._joined):
                    asked = self._clock.monotonic()
                    try:
                        pulse = self._shared.beat(target)
                    except EpochMismatch:
                        self._joined.discard(target)
                        self._rejoin(target)
                    except RedisUnavailable:
                        self._lose()
                        break
                    else:
                        self._alive = pulse.replicas
                        self._look(target, pulse.window_status)
                        self._heard_clock(pulse.clock_us)
                        # Counted from before it was asked: not a moment later than what the provider said.
                        self._heard_gate(target, asked + pulse.gate.left_us / SECOND, pulse.gate.window)
            gevent.sleep(BEAT_S)

    def _heard_clock(self, us: int) -> None:
        """What Redis' clock says. A step backwards is told of once; the ledger lives with it."""
        if us < self._clock_us - SECOND:
            self._log.warning("redis' clock has stepped back", seconds=(self._clock_us - us) // SECOND)
        self._clock_us = us
        self._mirror.skew_us = us - int(self._clock.now() * SECOND)

    def _heard_gate(self, target: str, until: float, window: str) -> None:
        if until > self._closed[target].until:
            self._closed[target] = _Closed(until, window)

    def _rejoin(self, target: str) -> None:
        try:
            self._join(target)
        except RedisUnavailable:
            self._lose()

    def _write(self, target: str) -> None:
        """Bring reservations' ends to Redis, off the path of the answers."""
        out = self._out[target]
        while True:
            out.more.wait()
            out.more.clear()
            self._drain(target)

    def _drain(self, target: str) -> None:
        """The first goes at once; what gathers while a call is under way goes together in the next."""
        out = self._out[target]
        while out.ends and self._state is State.JOINED:
            ends = tuple(islice(out.ends, TOGETHER))
            try:
                self._shared.finish(target, ends)
            except EpochMismatch:
                self._joined.discard(target)
                self._rejoin(target)
            except RedisUnavailable:
                self._lose()
            else:
                out.told(ends)
