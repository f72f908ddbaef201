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

A level of urgency may be held to less than the whole (a ``Lane``): to a share of each limit, so that the urgent always
find room; and to an even pace, so that what it spends comes free again evenly instead of all at once a window later.
"""

from bisect import bisect_left
from enum import StrEnum
from math import ceil, floor

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.domain.errors import NeverFits
from knowalledge.domain.learning import CLIMB, Ceiling

# One window is this many buckets; 600 makes 0.1 s of a minute, an error of at most 0.17%.
BUCKETS = 600
SIZE = BUCKETS + 1
# Seconds by which a charge outlives its window: by so much the way of one request to the provider may be longer than
# the way of a later one. Half a percent of a minute.
GUARD_S = 0.3
SECOND = 1_000_000
# A clock that steps back by less is waited for; one that steps back by more has been set anew, and what was remembered
# by it is moved along.
SET_BACK = 300 * SECOND
# Windows up to this are paced. A day is not: who may ask 10,000 times a day need not ask every 8.6 seconds.
PACED_SPAN_S = 120
# What answers take of what is held for them is a mean over about the last 50, weighed by their length.
OUTCOME_KEPT = 0.98
# How far ahead of an even pace a learnt window may be spent: two seconds of a minute, and at least two requests.
LEARNT_BURST = 1 / 30


class Count(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"  # input and output
    INPUT = "input_tokens"
    OUTPUT = "output_tokens"


class Need(Struct, frozen=True):
    """What one request takes: estimated before, true after. Tokens."""

    input: int
    output: int

    def plus(self, other: "Need") -> "Need":
        return Need(self.input + other.input, self.output + other.output)


class Window(Struct, frozen=True):
    """At most ``limit`` of ``count`` in any ``span_s`` seconds, or in a calendar day of ``zone``."""

    name: str
    count: Count
    limit: int
    span_s: int
    zone: str = ""  # calendar windows: the IANA zone ...
    reset_s: int = 0  # ... and seconds after its midnight at which the day begins
    learn: bool = False  # nobody publishes the limit: begin with this one and find it

    @property
    def calendar(self) -> bool:
        return bool(self.zone)

    @property
    def width(self) -> int:
        """Microseconds of a bucket, rounded up: never a shorter window."""
        return -(-int((self.span_s + GUARD_S) * SECOND) // BUCKETS)

    @property
    def guard(self) -> int:
        """Whole buckets in ``GUARD_S``."""
        return 0 if self.calendar else int(GUARD_S * SECOND) // self.width

    def charges(self, need: Need, requests: int = 1) -> int:
        """What of a need is charged at once."""
        if self.count is Count.REQUESTS:
            return requests
        return need.input if self.count in (Count.TOKENS, Count.INPUT) else 0

    def holds(self, need: Need) -> int:
        """What of a need is held until the answer is complete."""
        return need.output if self.count in (Count.TOKENS, Count.OUTPUT) else 0


class Moment(Struct, frozen=True):
    """A point in time, and per window the calendar day it falls in and that day's end; zeros for rolling windows."""

    now: int  # microseconds
    days: tuple[int, ...]
    ends: tuple[int, ...]  # microseconds


class Lane(Struct, frozen=True):
    """How much of the quota a level may use."""

    share: float = 1.0  # of each limit
    burst: float = 1.0  # of each limit, ahead of an even pace; 1: not paced

    def wanted(self, limit: int, amount: int) -> int:
        """The room that must be there for ``amount``: with what is left to the more urgent, nothing of a tiny window.

        What would not fit beside that share goes when the window is empty enough for it alone.
        """
        if self.share == 1.0:
            return amount
        return max(amount, min(limit, amount + limit - int(limit * self.share)))


WHOLE = Lane()


class Apart(Struct, frozen=True):
    """What one of several replicas may take of a window while it cannot ask the others.

    Until everything spent before the loss is out of the window: no more than it had spent itself and its part of what
    was free, so all together stay below the limit; and of new requests no more than an equal part of the limit, so
    they still do when the old ones are out. From then on: an equal part.
    """

    until: int  # the moment at which everything spent before is out
    first: int  # not to be used until then ...
    last: int  # ... and not to be used after it
    part: int  # of new requests until then


class Entry(Struct, frozen=True):
    """What a reservation wrote into the ledger, enough to undo or settle it."""

    need: Need
    buckets: tuple[int, ...]  # per window, the bucket of the grant


class Verdict(Struct, frozen=True):
    """A Ledger's answer. ``entry`` is None when refused; then ``wait_s`` says when it would fit."""

    entry: Entry | None
    wait_s: float = 0.0
    window: str = ""  # the window that refused


class Level(Struct, frozen=True):
    """One window as it stands."""

    window: Window
    used: int  # charged and held
    held: int
    resets_s: float  # until everything counted now is out
    limit: int  # the window's own, or what is learnt of it


class Ring:
    """The charges of one window, by bucket, and its pace."""

    __slots__ = (
        "apart",
        "ceiling",
        "even",
        "granted",
        "guard",
        "held",
        "inputs",
        "last",
        "line",
        "lined",
        "others",
        "outputs",
        "requests",
        "sums",
        "total",
        "width",
        "window",
    )

    def __init__(self, window: Window) -> None:
        self.window = window
        # What counts here, as factors, 1 or 0: to ask the window each time is half the price of a decision.
        self.requests = window.charges(Need(0, 0))
        self.inputs = window.charges(Need(1, 0), 0)
        self.outputs = window.holds(Need(0, 1))
        self.ceiling = Ceiling(window.limit) if window.learn else None
        self.width = window.width
        self.guard = window.guard
        self.even = window.limit / (window.span_s * SECOND)
        # All that was ever charged up to the end of each bucket, so that what has been freed by then is found by
        # bisection. A correction walks from its bucket to the newest: as many steps as the answer took.
        self.sums = [0] * SIZE
        self.total = 0
        self.held = 0
        self.apart: Apart | None = None
        self.others = 0  # not ours to take while the other replicas cannot be asked
        self.granted = 0  # since they were last looked at, or since they cannot be
        self.last = 0  # absolute index of the newest bucket
        self.line = 0.0  # granted ahead of an even pace
        self.lined = 0  # the moment at which `line` was true

    def advance(self, now: int, day: int) -> int:
        """Let what is out of the window go; the index of the bucket that takes charges now.

        A clock that steps backwards a little moves nothing: charges then go to the newest bucket, which keeps them
        longer, never shorter.
        """
        if self.apart is not None:
            self.others = self.apart.first if now < self.apart.until else self.apart.last
        if now > self.lined:
            if self.line:
                self.line = max(0.0, self.line - (now - self.lined) * self.rate)
            self.lined = now
        if self.window.zone:
            if day > self.last:
                self.last, self.total = day, 0
            return self.last
        index = now // self.width
        gone = index - self.last
        if gone <= 0:
            return self.last
        top = self.sums[self.last % SIZE]
        if gone >= SIZE:
            self.sums = [top] * SIZE
            self.total = 0
        else:
            self.total = top - self.sums[index % SIZE]
            for step in range(self.last + 1, index + 1):
                self.sums[step % SIZE] = top
        self.last = index
        return index

    def set_back(self, now: int, day: int, by: int) -> None:
        """The clock was set back: all that is charged counts as charged now, so that none of it ends too early."""
        self.lined = now
        if self.window.zone:
            self.last = min(self.last, day)
        else:
            self.last = now // self.width
            self.sums = [0] * SIZE
            self.sums[self.last % SIZE] = self.total
        if self.ceiling is not None:
            self.ceiling.probe -= by
            self.ceiling.cut = max(1, self.ceiling.cut - by) if self.ceiling.cut else 0
        if self.apart is not None:
            self.apart = replace(self.apart, until=self.apart.until - by)

    @property
    def used(self) -> int:
        """Charged, held, and not ours to take."""
        return self.total + self.held + self.others

    def takes(self, need: Need) -> tuple[int, int]:
        """What one request is charged at once, and what is held until its answer is complete."""
        return self.requests + self.inputs * need.input, self.outputs * need.output

    def charges(self) -> dict[int, int]:
        """What is charged, by bucket."""
        if self.window.calendar:
            return {self.last: self.total} if self.total else {}
        found = {}
        before = self.sums[self.last % SIZE] - self.total
        for bucket in range(max(0, self.last - SIZE + 1), self.last + 1):
            amount = self.sums[bucket % SIZE] - before
            if amount:
                found[bucket] = amount
                before += amount
        return found

    @property
    def limit(self) -> int:
        return self.ceiling.limit if self.ceiling else self.window.limit

    @property
    def rate(self) -> float:
        """The pace, per microsecond."""
        if self.ceiling is None:
            return self.even
        faster = CLIMB if self.ceiling.climbing else 1.0
        return faster * self.ceiling.limit / (self.window.span_s * SECOND)

    def add(self, bucket: int, amount: int) -> None:
        """Charge ``amount`` (may be negative) into ``bucket``; one that is out of the window is no more."""
        if self.window.calendar:
            if bucket >= self.last:  # later: the clock was set back since
                self.total += amount
        elif amount and self.last - bucket < SIZE:
            for step in range(min(bucket, self.last), self.last + 1):
                self.sums[step % SIZE] += amount
            self.total += amount

    def repace(self, amount: int) -> None:
        """Correct the pace by what was granted too much or too little."""
        self.line = max(0.0, self.line + amount)

    def room_in(self, now: int, amount: int, limit: int, end: int) -> int:
        """Microseconds until ``amount`` more fits, if nothing else is granted and every hold comes true.

        An amount larger than the window fits after as many windows as it fills.
        """
        apart = self.apart
        if apart is not None and now < apart.until and self.granted + amount > apart.part:
            return apart.until - now
        short = self.total + self.held + self.others + amount - limit
        if short <= 0:
            return 0
        if self.window.zone:
            return end - now + (short - 1) // limit * self.window.span_s * SECOND
        if short > self.total:
            return (SIZE - 1) * self.width + int((short - self.total) / self.rate)
        enough = self.sums[self.last % SIZE] - self.total + short
        oldest = (self.last + 1) % SIZE
        place = bisect_left(self.sums, enough, oldest)
        if place == SIZE:
            place += bisect_left(self.sums, enough, 0, oldest)
        return max(1, (self.last + 1 + place - oldest) * self.width - now)

    def pace_in(self, amount: int, burst: float, before: int = 0) -> int:
        """Microseconds until ``amount`` more, after ``before``, is no further ahead of an even pace than ``burst``."""
        least = 0.0
        if self.ceiling is not None:
            # What nobody publishes may well be counted by the second. While it climbs they go one by one, so that few
            # are on their way when one is refused.
            burst, least = (0.0, 1.0) if self.ceiling.climbing else (min(burst, LEARNT_BURST), 2.0)
        line = self.line + before
        if burst >= 1 or self.window.span_s > PACED_SPAN_S or line <= 0:
            return 0
        ahead = line + amount - max(burst * self.limit, least)
        # What is larger than the burst itself goes as soon as the line is empty.
        return int(min(ahead, line) / self.rate) + 1 if ahead > 0 else 0


class Before(Struct, frozen=True):
    """What comes before a request: so many others, who need so much.

    ``back`` is the part of all that is held now that will have been given back by then.
    """

    count: int
    need: Need
    back: float = 0.0

    def takes(self, ring: Ring) -> int:
        """What they need of one window, less what will have been given back."""
        need = self.need
        takes = ring.requests * self.count + ring.inputs * need.input + ring.outputs * need.output
        return takes - floor(ring.held * self.back) if self.back else takes


NOBODY = Before(0, Need(0, 0))


class Ledger:
    """All windows of one target."""

    __slots__ = ("gate", "gate_window", "latest", "look", "predicted", "produced", "rings", "windows")

    def __init__(self, windows: tuple[Window, ...]) -> None:
        self.windows = windows
        self.rings = [Ring(window) for window in windows]
        self.gate = 0  # nothing is granted before this moment: the provider said so
        self.gate_window = ""
        self.latest = 0  # the latest moment that was seen
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
        now, days = at.now, at.days
        if now > self.latest:
            self.latest = now
        elif self.latest - now > SET_BACK:
            self._set_back(at)
        return tuple([ring.advance(now, day) for ring, day in zip(self.rings, days, strict=True)])

    def _set_back(self, at: Moment) -> None:
        by = self.latest - at.now
        self.latest = at.now
        self.gate -= by
        self.look -= by
        for ring, day in zip(self.rings, at.days, strict=True):
            ring.set_back(at.now, day, by)

    def reserve(self, at: Moment, need: Need, lane: Lane = WHOLE) -> Verdict:
        """Charge every window, or none."""
        buckets = self.advance(at)
        wait, window = self.wait(at, need, lane)
        if wait and self._pressed(at, need, lane):
            wait, window = self.wait(at, need, lane)
        if wait:
            return Verdict(None, wait / SECOND, window)
        return Verdict(self._charge(buckets, need))

    def _pressed(self, at: Moment, need: Need, lane: Lane) -> bool:
        """Whether a learnt ceiling gives way to a request that does not fit."""
        gave = False
        if at.now >= self.gate:
            for ring in self.rings:
                if ring.ceiling is not None:
                    full = ring.used + lane.wanted(ring.limit, sum(ring.takes(need))) > ring.limit
                    gave = (full and ring.ceiling.pressed(at.now)) or gave
        return gave

    def charge(self, at: Moment, need: Need) -> Entry:
        """Charge every window, whatever is in it: somebody else has decided."""
        return self._charge(self.advance(at), need)

    def _charge(self, buckets: tuple[int, ...], need: Need) -> Entry:
        for ring, bucket in zip(self.rings, buckets, strict=True):
            charge, hold = ring.takes(need)
            ring.add(bucket, charge)
            ring.held += hold
            ring.line += charge + hold
            ring.granted += charge + hold
        return Entry(need, buckets)

    def wait(self, at: Moment, need: Need, lane: Lane = WHOLE, before: Before = NOBODY) -> tuple[int, str]:
        """Microseconds until a request fits, and the window that it waits for; (0, "") for now."""
        if at.now < self.gate:
            return self.gate - at.now, self.gate_window
        wait, worst = 0, ""
        inputs, outputs, burst, alone = need.input, need.output, lane.burst, before is NOBODY
        for ring, end in zip(self.rings, at.ends, strict=True):
            amount = ring.requests + ring.inputs * inputs + ring.outputs * outputs
            first = 0 if alone else before.takes(ring)
            limit = ring.limit
            room = ring.room_in(at.now, lane.wanted(limit, amount) + first, limit, end)
            if burst < 1 or ring.ceiling is not None:
                room = max(room, ring.pace_in(amount, burst, first))
            if room > wait:
                wait, worst = room, ring.window.name
        return wait, worst

    def settle(self, at: Moment, entry: Entry, true: Need) -> None:
        """Put the truth in the estimate's place."""
        self.predicted = self.predicted * OUTCOME_KEPT + entry.need.output
        self.produced = self.produced * OUTCOME_KEPT + true.output
        for ring, bucket, current in zip(self.rings, entry.buckets, self.advance(at), strict=True):
            charged, held = ring.takes(entry.need)
            charge, output = ring.takes(true)
            ring.add(bucket, charge - charged)
            ring.held -= held
            ring.add(current - ring.guard, output)  # the provider has counted it by now
            ring.repace(charge + output - charged - held)

    def release(self, at: Moment, entry: Entry) -> None:
        """Nothing was sent: as if it had never been reserved."""
        self.advance(at)
        for ring, bucket in zip(self.rings, entry.buckets, strict=True):
            charge, hold = ring.takes(entry.need)
            ring.add(bucket, -charge)
            ring.held -= hold
            ring.repace(-charge - hold)

    def refused(self, at: Moment, entry: Entry) -> None:
        """The provider refused it: released, and what is learnt of the limit comes down.

        Alone it stays charged: all together are over the limit, so there is no such place for the next to take.
        """
        self.release(at, entry)
        for ring, bucket in zip(self.rings, entry.buckets, strict=True):
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

    def part(self, at: Moment, levels: tuple[Level, ...], replicas: int) -> None:
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
            ring.apart = Apart(until, limit - min(limit, own + free // replicas), limit - part, part)
            ring.granted = 0

    def join(self) -> None:
        """The others can be asked again."""
        for ring in self.rings:
            ring.apart, ring.others = None, 0

    def levels(self, at: Moment) -> tuple[Level, ...]:
        self.advance(at)
        return tuple(
            level_of(ring.window, ring.used, ring.held, ring.limit, at, end)
            for ring, end in zip(self.rings, at.ends, strict=True)
        )


def level_of(window: Window, used: int, held: int, limit: int, at: Moment, end: int) -> Level:
    """A window's level from its numbers."""
    resets = (end - at.now) / SECOND if window.calendar else float(window.span_s if used else 0)
    return Level(window, used, held, resets, limit)


def refuse_what_never_fits(target: str, windows: tuple[Window, ...], need: Need) -> None:
    """Raise ``NeverFits`` where waiting cannot help, naming the limit."""
    for window in windows:
        if window.charges(need) > window.limit and not window.learn:
            raise NeverFits(
                f"this request needs about {need.input} input tokens; {target} allows {window.limit} "
                f"{window.count.replace('_', ' ')} in {window.span_s} s, so it can never fit"
            )


def cap(windows: tuple[Window, ...], need: Need) -> Need:
    """The need with its predicted output cut to what could ever fit: a prediction never refuses a request."""
    output = need.output
    for window in windows:
        if window.holds(need) and not window.learn:
            output = min(output, window.limit - window.charges(need))
    return need if output == need.output else Need(need.input, max(0, output))
