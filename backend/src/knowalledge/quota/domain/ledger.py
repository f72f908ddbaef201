"""The quota of one target: any number of windows, checked and charged as one.

A ``Ledger`` is the whole truth about one target's quota. It is plain arithmetic over state that it owns; the time is
an argument, in whole microseconds since the epoch (floats would disagree at a bucket's edge). The in-process store
keeps one Ledger for each target; the Lua scripts of the Redis store repeat this file step by step, and a test drives
both with one history and compares.

How a request is charged
    reserve   every window at once or none: one request and the estimated input go into the bucket of *now*;
              the predicted output is *held* beside the ring
    settle    the input's error is corrected in the reservation's own bucket; the hold ends and the actual output goes
              into the bucket of the completion
    release   as if it had never been: nothing was sent

Why that is never over the limit: whether the provider counts a token when the request arrives or when the answer
is complete, this ledger counts it from the earlier of the two (the hold) until one window after the later of the
two (the completion's bucket).

Windows are rings of buckets. A bucket is counted until all of it has left the window, and ``GUARD_S`` longer: requests
reach the provider late and unevenly, so its window closes later than ours. The error is on the safe side and under one
bucket plus the guard. Output needs no guard: when an answer brings its count, the provider has counted it already.
Memory is constant at any rate, and a decision is O(windows), amortised.

A priority level may be limited (a ``LevelPolicy``) to a part of each limit, which keeps capacity for higher priorities,
and to an even pace, so that what it spends becomes free evenly instead of all at once a window later.
"""

from collections.abc import Callable
from math import ceil

from msgspec import Struct

from knowalledge.quota.domain.ring import SIZE, DegradedShare, Ring
from knowalledge.quota.domain.window import (
    NO_BACKLOG,
    SECOND,
    UNLIMITED,
    Backlog,
    LevelPolicy,
    Moment,
    TokenCost,
    Window,
    WindowStatus,
    window_status,
)

# A clock that steps back by less than this (microseconds) is waited for. One that steps back by more has been set
# anew, and every stored moment moves along.
SET_BACK = 300 * SECOND
# The ratio of actual to predicted output is a mean over about the last 50 answers, weighted by their length.
OUTPUT_DECAY = 0.98


class Charge(Struct, frozen=True):
    """What a reservation wrote into the ledger, enough to settle or undo it."""

    cost: TokenCost
    buckets: tuple[int, ...]  # for each window, the bucket of the grant
    set_backs: int = 0  # how often the clock had been set back by then


class Shortage(Struct, frozen=True):
    """A reservation does not fit now."""

    wait_s: float  # until it would fit
    window: str  # the one that it waits for; "" if the provider closed the gate without naming one


class Ledger:
    """All windows of one target."""

    __slots__ = (
        "_actual_output",
        "_at",
        "_buckets",
        "_gate_window",
        "_on_set_back",
        "_predicted_output",
        "_set_backs",
        "_synced_at",
        "gate",
        "latest",
        "rings",
        "windows",
    )

    def __init__(self, windows: tuple[Window, ...], on_set_back: Callable[[int], None] | None = None) -> None:
        """``on_set_back`` is called first when the clock was set back, with microseconds."""
        self.windows = windows
        self.rings = [Ring(window) for window in windows]
        self.gate = 0  # nothing is granted before this moment: the provider asked for it
        self._gate_window = ""
        self.latest = 0  # the latest moment seen; only a clock that was set back moves it back
        self._on_set_back = on_set_back
        self._set_backs = 0  # how often the clock was set back
        self._at: Moment | None = None  # the moment at which the rings are ...
        self._buckets: tuple[int, ...] = ()  # ... and their newest buckets
        self._synced_at = 0  # the moment at which all replicas together were last seen
        self._predicted_output = 0.0  # tokens of recent answers, decayed
        self._actual_output = 0.0

    @property
    def output_ratio(self) -> float:
        """Actual output of recent answers as a part of what was held for them, at most 1; 1 while nothing is known.

        A high quantile is held, so an answer releases a good part of it.
        """
        return min(1.0, self._actual_output / self._predicted_output) if self._predicted_output else 1.0

    def advance(self, at: Moment) -> tuple[int, ...]:
        """Bring every ring to the moment; their newest buckets."""
        if at is self._at:
            return self._buckets
        now, days = at.now, at.days
        if now > self.latest:
            self.latest = now
        elif self.latest - now > SET_BACK:
            self._set_back(at)
        self._at = at
        self._buckets = tuple([ring.advance(now, day) for ring, day in zip(self.rings, days, strict=True)])
        return self._buckets

    def _set_back(self, at: Moment) -> None:
        by = self.latest - at.now
        if self._on_set_back is not None:
            self._on_set_back(by)
        self.latest = at.now
        self._set_backs += 1
        self.gate -= by
        self._synced_at -= by
        for ring, day in zip(self.rings, at.days, strict=True):
            ring.set_back(at.now, day, by)

    def reserve(self, at: Moment, cost: TokenCost, policy: LevelPolicy = UNLIMITED) -> Charge | Shortage:
        """Charge every window, or none."""
        buckets = self.advance(at)
        wait, window = self.wait(at, cost, policy)
        if wait and self._probe_ceilings(at, cost, policy):
            wait, window = self.wait(at, cost, policy)
        if wait:
            return Shortage(wait / SECOND, window)
        return self._charge(buckets, cost)

    def _probe_ceilings(self, at: Moment, cost: TokenCost, policy: LevelPolicy) -> bool:
        """A request does not fit: raise each learnt limit whose probe is due; whether one was raised."""
        raised = False
        if at.now >= self.gate:
            for ring in self.rings:
                if ring.ceiling is not None:
                    amount = sum(ring.charge_and_hold(cost))
                    full = ring.used + policy.required_capacity(ring.limit, amount) > ring.limit
                    raised = (full and ring.ceiling.probe(at.now)) or raised
        return raised

    def charge(self, at: Moment, cost: TokenCost) -> Charge:
        """Charge every window, whatever is in it: the shared store has granted it."""
        return self._charge(self.advance(at), cost)

    def _charge(self, buckets: tuple[int, ...], cost: TokenCost) -> Charge:
        for ring, bucket in zip(self.rings, buckets, strict=True):
            charge, hold = ring.charge_and_hold(cost)
            ring.add(bucket, charge)
            ring.held += hold
            ring.pace_debt += charge + hold
            ring.granted += charge + hold
        return Charge(cost, buckets, self._set_backs)

    def buckets(self, charge: Charge) -> tuple[int, ...]:
        """For each window the bucket that a charge is in: another than the grant's if the clock was set back."""
        if charge.set_backs == self._set_backs:
            return charge.buckets
        return tuple(
            ring.moved_bucket(bucket, charge.set_backs)
            for ring, bucket in zip(self.rings, charge.buckets, strict=True)
        )

    def wait(
        self, at: Moment, cost: TokenCost, policy: LevelPolicy = UNLIMITED, backlog: Backlog = NO_BACKLOG
    ) -> tuple[int, str]:
        """Microseconds until a request fits after its backlog, and the window that it waits for; (0, "") for now."""
        if at.now < self.gate:
            return self.gate - at.now, self._gate_window
        longest, waits_for = 0, ""
        inputs, outputs, burst, alone = cost.input, cost.output, policy.burst, backlog is NO_BACKLOG
        for ring, day_ends in zip(self.rings, at.ends, strict=True):
            amount = ring.counts_requests + ring.counts_input * inputs + ring.counts_output * outputs
            ahead = 0 if alone else ring.amount_of(backlog)
            limit = ring.limit
            required = policy.required_capacity(limit, amount) + ahead
            wait = ring.wait_for_capacity(at.now, required, limit, day_ends)
            if burst < 1 or ring.ceiling is not None:
                wait = max(wait, ring.wait_for_pace(at.now, amount, burst, ahead))
            if wait > longest:
                longest, waits_for = wait, ring.window.name
        return longest, waits_for

    def settle(self, at: Moment, charge: Charge, actual: TokenCost) -> None:
        """Replace the estimated cost by the actual one."""
        estimated = charge.cost
        self._predicted_output = self._predicted_output * OUTPUT_DECAY + estimated.output
        self._actual_output = self._actual_output * OUTPUT_DECAY + actual.output
        newest = self.advance(at)
        for ring, bucket, current in zip(self.rings, self.buckets(charge), newest, strict=True):
            charged, held = ring.charge_and_hold(estimated)
            due, output = ring.charge_and_hold(actual)
            ring.add(bucket, due - charged)
            ring.held -= held
            ring.add(current - ring.guard, output)  # the provider has counted it by now
            ring.adjust_pace_debt(due + output - charged - held)

    def release(self, at: Moment, charge: Charge) -> None:
        """Nothing was sent: as if it had never been reserved."""
        self.advance(at)
        for ring, bucket in zip(self.rings, self.buckets(charge), strict=True):
            charged, held = ring.charge_and_hold(charge.cost)
            ring.add(bucket, -charged)
            ring.held -= held
            ring.adjust_pace_debt(-charged - held)

    def release_rejected(self, at: Moment, charge: Charge) -> None:
        """The provider rejected it: released, and learnt limits come down.

        A degraded replica keeps the charge: all replicas together are over the limit, so no capacity has come free.
        """
        self.release(at, charge)
        for ring, bucket in zip(self.rings, self.buckets(charge), strict=True):
            if ring.ceiling is not None:
                ring.ceiling.reject(at.now, bucket * ring.width, ring.used)
            if ring.degraded_share is not None:
                charged, _ = ring.charge_and_hold(charge.cost)
                ring.add(bucket, charged)
                ring.adjust_pace_debt(charged)

    def close_gate(self, moment: int, window: str = "") -> None:
        """Grant nothing before ``moment``. A gate only moves later, and opens by itself."""
        if moment > self.gate:
            self.gate, self._gate_window = moment, window

    def record_sync(self, at: Moment) -> None:
        """All replicas together have been seen: what this one was granted is part of what was seen."""
        self._synced_at = at.now
        for ring in self.rings:
            ring.granted = 0

    def enter_degraded(self, at: Moment, status: tuple[WindowStatus, ...], replicas: int) -> None:
        """Go on with this replica's share of each window, from the last ``status`` of all replicas together.

        What was granted since then is not part of it. Each of the others is taken to have been granted as much as this
        one, or what an even pace of the whole limit comes to if that is more. Shares are rounded down, so that they
        add up to no more than the whole.
        """
        self.advance(at)
        unseen = max(0, at.now - self._synced_at) if self._synced_at and replicas > 1 else 0
        for ring, last in zip(self.rings, status, strict=True):
            if ring.ceiling is not None:
                ring.ceiling.adopt(at.now, last.limit)
            limit, own = ring.limit, ring.charged + ring.held
            peers = max((replicas - 1) * ring.granted, ceil(unseen * ring.pace))
            free = max(0, limit - max(own, last.used + ring.granted + peers))
            share = max(1, limit // replicas)
            ring.degraded_share = DegradedShare(
                until=at.now + SIZE * ring.width,
                reserved_before=limit - min(limit, own + free // replicas),
                reserved_after=limit - share,
                granted_limit=share,
            )
            ring.reserved_for_peers = ring.degraded_share.reserved_before
            ring.granted = 0

    def leave_degraded(self) -> None:
        """The shared store decides again."""
        for ring in self.rings:
            ring.degraded_share, ring.reserved_for_peers = None, 0

    def window_status(self, at: Moment) -> tuple[WindowStatus, ...]:
        self.advance(at)
        return tuple(
            [
                window_status(ring.window, ring.used, ring.held, ring.limit, at, day_ends)
                for ring, day_ends in zip(self.rings, at.ends, strict=True)
            ]
        )
