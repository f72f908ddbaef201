"""The quota of one target: any number of windows, checked and charged as one.

A ``Ledger`` is the whole truth about one target's quota. It is plain arithmetic over state that it owns; the time is
an argument, in whole microseconds since the epoch (floats would disagree at a bucket's edge). The in-process store
keeps one Ledger per target; the Lua scripts of the Redis store repeat this file step by step, and a test drives both
with one history and compares.

How a request is charged
    reserve   every window at once or none: one request and the estimated input go into the bucket of *now*;
              the predicted output is *held* beside the ring
    settle    the input's error is corrected in the reservation's own bucket; the hold ends and the true output goes
              into the bucket of the completion
    release   as if it had never been: nothing was sent

Why that is never over the limit: whether the provider counts a token when the request arrives or when the answer
is complete, this ledger counts it from the earlier of the two (the hold) until one window after the later of the
two (the completion's bucket).

Windows are rings of buckets. A bucket is counted until all of it is out of the window, and ``GUARD_S`` longer:
requests reach the provider late and unevenly, so its window closes later than ours. The error is on the safe side and
under one bucket plus the guard. Output needs no guard: when an answer tells of it, the provider has counted it already.
Memory is constant at any rate, and a decision is O(windows), amortised.

A priority level may be limited (a ``LevelPolicy``) to a share of each limit, which keeps room for more urgent levels,
and to an even pace, so that what it spends becomes free evenly instead of all at once a window later.
"""

from collections.abc import Callable
from math import ceil, floor

from msgspec import Struct

from knowalledge.quota.domain.ring import SIZE, DegradedShare, Ring
from knowalledge.quota.domain.window import (
    SECOND,
    UNLIMITED,
    LevelPolicy,
    Moment,
    TokenCost,
    Window,
    WindowStatus,
    window_status,
)

# A clock that steps back by less is waited for; one that steps back by more has been set anew, and what was remembered
# by it is moved along.
SET_BACK = 300 * SECOND
# What answers take of what is held for them is a mean over about the last 50, weighed by their length.
OUTCOME_KEPT = 0.98


class Charge(Struct, frozen=True):
    """What a reservation wrote into the ledger, enough to undo or settle it."""

    need: TokenCost
    buckets: tuple[int, ...]  # per window, the bucket of the grant
    moves: int = 0  # how often the clock had been set back by then


class Verdict(Struct, frozen=True):
    """A Ledger's answer. ``entry`` is None when refused; then ``wait_s`` says when it would fit."""

    entry: Charge | None
    wait_s: float = 0.0
    window: str = ""  # the window that refused


class Backlog(Struct, frozen=True):
    """What comes before a request: so many others, who need so much.

    ``back`` is the part of all that is held now that will have been given back by then.
    """

    count: int
    need: TokenCost
    back: float = 0.0

    def takes(self, ring: Ring) -> int:
        """What they need of one window, less what will have been given back."""
        need = self.need
        takes = ring.requests * self.count + ring.inputs * need.input + ring.outputs * need.output
        return takes - floor(ring.held * self.back) if self.back else takes


NO_BACKLOG = Backlog(0, TokenCost(0, 0))


class Ledger:
    """All windows of one target."""

    __slots__ = (
        "_at",
        "_buckets",
        "gate",
        "gate_window",
        "latest",
        "look",
        "moves",
        "on_set_back",
        "predicted",
        "produced",
        "rings",
        "windows",
    )

    def __init__(self, windows: tuple[Window, ...], on_set_back: Callable[[int], None] | None = None) -> None:
        """``on_set_back`` is told first when a clock was set back, and by how many microseconds."""
        self.windows = windows
        self.on_set_back = on_set_back
        self.rings = [Ring(window) for window in windows]
        self.gate = 0  # nothing is granted before this moment: the provider said so
        self.gate_window = ""
        self.latest = (
            0  # the latest moment that was seen: it never runs backwards, but for a clock that is set back
        )
        self.moves = 0  # how often the clock was set back
        self._at: Moment | None = None  # where the rings are ...
        self._buckets: tuple[int, ...] = ()  # ... and their buckets there
        self.look = 0  # the moment at which all replicas together were last looked at
        self.predicted = 0.0  # output tokens of the answers of late ...
        self.produced = 0.0  # ... and what they really were

    @property
    def outcome(self) -> float:
        """What the answers of late took of the output that was held for them, at most 1; 1 while nothing is known.

        Held is a high quantile, so an answer gives back a good part of it.
        """
        return min(1.0, self.produced / self.predicted) if self.predicted else 1.0

    def advance(self, at: Moment) -> tuple[int, ...]:
        """Bring every ring to the moment; their current buckets."""
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
        if self.on_set_back is not None:
            self.on_set_back(by)
        self.latest = at.now
        self.moves += 1
        self.gate -= by
        self.look -= by
        for ring, day in zip(self.rings, at.days, strict=True):
            ring.set_back(at.now, day, by)

    def reserve(self, at: Moment, need: TokenCost, lane: LevelPolicy = UNLIMITED) -> Verdict:
        """Charge every window, or none."""
        buckets = self.advance(at)
        wait, window = self.wait(at, need, lane)
        if wait and self._pressed(at, need, lane):
            wait, window = self.wait(at, need, lane)
        if wait:
            return Verdict(None, wait / SECOND, window)
        return Verdict(self._charge(buckets, need))

    def _pressed(self, at: Moment, need: TokenCost, lane: LevelPolicy) -> bool:
        """Whether a learnt ceiling gives way to a request that does not fit."""
        gave = False
        if at.now >= self.gate:
            for ring in self.rings:
                if ring.ceiling is not None:
                    full = ring.used + lane.wanted(ring.limit, sum(ring.takes(need))) > ring.limit
                    gave = (full and ring.ceiling.pressed(at.now)) or gave
        return gave

    def charge(self, at: Moment, need: TokenCost) -> Charge:
        """Charge every window, whatever is in it: somebody else has decided."""
        return self._charge(self.advance(at), need)

    def _charge(self, buckets: tuple[int, ...], need: TokenCost) -> Charge:
        for ring, bucket in zip(self.rings, buckets, strict=True):
            charge, hold = ring.takes(need)
            ring.add(bucket, charge)
            ring.held += hold
            ring.line += charge + hold
            ring.granted += charge + hold
        return Charge(need, buckets, self.moves)

    def buckets(self, entry: Charge) -> tuple[int, ...]:
        """Per window, the bucket that an entry's charge is in: another than the grant's if the clock was set back."""
        if entry.moves == self.moves:
            return entry.buckets
        return tuple(
            ring.moved(bucket, entry.moves) for ring, bucket in zip(self.rings, entry.buckets, strict=True)
        )

    def wait(
        self, at: Moment, need: TokenCost, lane: LevelPolicy = UNLIMITED, before: Backlog = NO_BACKLOG
    ) -> tuple[int, str]:
        """Microseconds until a request fits, and the window that it waits for; (0, "") for now."""
        if at.now < self.gate:
            return self.gate - at.now, self.gate_window
        wait, worst = 0, ""
        inputs, outputs, burst, alone = need.input, need.output, lane.burst, before is NO_BACKLOG
        for ring, end in zip(self.rings, at.ends, strict=True):
            amount = ring.requests + ring.inputs * inputs + ring.outputs * outputs
            first = 0 if alone else before.takes(ring)
            limit = ring.limit
            room = ring.room_in(at.now, lane.wanted(limit, amount) + first, limit, end)
            if burst < 1 or ring.ceiling is not None:
                room = max(room, ring.pace_in(at.now, amount, burst, first))
            if room > wait:
                wait, worst = room, ring.window.name
        return wait, worst

    def settle(self, at: Moment, entry: Charge, true: TokenCost) -> None:
        """Put the truth in the estimate's place."""
        self.predicted = self.predicted * OUTCOME_KEPT + entry.need.output
        self.produced = self.produced * OUTCOME_KEPT + true.output
        newest = self.advance(at)
        for ring, bucket, current in zip(self.rings, self.buckets(entry), newest, strict=True):
            charged, held = ring.takes(entry.need)
            charge, output = ring.takes(true)
            ring.add(bucket, charge - charged)
            ring.held -= held
            ring.add(current - ring.guard, output)  # the provider has counted it by now
            ring.repace(charge + output - charged - held)

    def release(self, at: Moment, entry: Charge) -> None:
        """Nothing was sent: as if it had never been reserved."""
        self.advance(at)
        for ring, bucket in zip(self.rings, self.buckets(entry), strict=True):
            charge, hold = ring.takes(entry.need)
            ring.add(bucket, -charge)
            ring.held -= hold
            ring.repace(-charge - hold)

    def refused(self, at: Moment, entry: Charge) -> None:
        """The provider refused it: released, and what is learnt of the limit comes down.

        Alone it stays charged: all together are over the limit, so there is no such place for the next to take.
        """
        self.release(at, entry)
        for ring, bucket in zip(self.rings, self.buckets(entry), strict=True):
            if ring.ceiling is not None:
                ring.ceiling.refused(at.now, bucket * ring.width, ring.used)
            if ring.apart is not None:
                charge, _ = ring.takes(entry.need)
                ring.add(bucket, charge)
                ring.repace(charge)

    def close_until(self, moment: int, window: str = "") -> None:
        """A hard gate: the provider named a time. It only ever moves later, and ends by itself."""
        if moment > self.gate:
            self.gate, self.gate_window = moment, window

    def looked(self, at: Moment) -> None:
        """All replicas together have been looked at: whatever this one was granted is in what was seen."""
        self.look = at.now
        for ring in self.rings:
            ring.granted = 0

    def part(self, at: Moment, levels: tuple[WindowStatus, ...], replicas: int) -> None:
        """Go on alone: with this replica's part of each window, as all together last saw them.

        What was granted since that look is not in it. The others are taken to have been granted as much each as this
        one, or what an even pace of the whole limit comes to if that is more. Parts are rounded down, so that they
        add up to no more than the whole.
        """
        self.advance(at)
        unseen = max(0, at.now - self.look) if self.look and replicas > 1 else 0
        for ring, level in zip(self.rings, levels, strict=True):
            if ring.ceiling is not None:
                ring.ceiling.learnt(at.now, level.limit)
            limit, own = ring.limit, ring.total + ring.held
            others = max((replicas - 1) * ring.granted, ceil(unseen * ring.rate))
            free = max(0, limit - max(own, level.used + ring.granted + others))
            part = max(1, limit // replicas)
            until = at.now + SIZE * ring.width
            ring.apart = DegradedShare(until, limit - min(limit, own + free // replicas), limit - part, part)
            ring.others = ring.apart.first
            ring.granted = 0

    def join(self) -> None:
        """The others can be asked again."""
        for ring in self.rings:
            ring.apart, ring.others = None, 0

    def levels(self, at: Moment) -> tuple[WindowStatus, ...]:
        self.advance(at)
        return tuple(
            window_status(ring.window, ring.used, ring.held, ring.limit, at, end)
            for ring, end in zip(self.rings, at.ends, strict=True)
        )
