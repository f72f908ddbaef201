"""The quota of one target: any number of windows, checked and charged as one.

A ``Ledger`` is the whole truth about one target's quota. It is plain arithmetic over state that it owns; the
time is an argument, in whole microseconds since the epoch (floats would disagree at a bucket's edge). The in-process
store keeps one Ledger per target; the Lua scripts of the Redis store repeat this file step by step, and a test drives
both with one history and compares.

How a request is charged
    reserve   every window at once or none: one request and the estimated input go into the bucket of *now*;
              the predicted output is *held* beside the ring
    settle    the input's error is corrected in the reservation's own bucket; the hold ends and the true output goes
              into the bucket of the completion
    release   as if it had never been: nothing was sent

Why that is never over the limit: whether the provider counts a token when the request arrives or when the answer
is complete, this ledger counts it from the earlier of the two (the hold) until one window after the later of the
two (the completion's bucket).

Windows are rings of buckets. A bucket is counted until all of it is out of the window, and ``lag`` buckets longer:
requests reach the provider late and unevenly, so its window closes later than ours. The error is on the safe
side and under one bucket plus the lag; memory is constant at any rate, and a decision is O(windows), amortised.
"""

from enum import StrEnum

from msgspec import Struct

from knowalledge.domain.errors import NeverFits

# One window is this many buckets; 600 makes 0.1 s of a minute, an error of at most 0.17%.
BUCKETS = 600
# Buckets by which a charge outlives its window, for requests that reach the provider late.
LAG = 2


SECOND = 1_000_000


class Count(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"  # input and output
    INPUT = "input_tokens"
    OUTPUT = "output_tokens"


class Window(Struct, frozen=True):
    """At most ``limit`` of ``count`` in any ``span_s`` seconds; a calendar day if ``day`` says so."""

    name: str
    count: Count
    limit: int
    span_s: int
    zone: str = ""  # calendar windows: the IANA zone ...
    reset_s: int = 0  # ... and seconds after its midnight at which the day begins

    @property
    def calendar(self) -> bool:
        return bool(self.zone)

    def holds(self, need: "Need") -> int:
        """What of a need is held until the answer is complete."""
        return need.output if self.count in (Count.TOKENS, Count.OUTPUT) else 0

    def charges(self, need: "Need") -> int:
        """What of a need is charged at once."""
        if self.count is Count.REQUESTS:
            return 1
        return need.input if self.count in (Count.TOKENS, Count.INPUT) else 0


class Need(Struct, frozen=True):
    """What one request takes: estimated before, true after. Tokens."""

    input: int
    output: int


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


class Ring:
    """The charges of one window, by bucket."""

    __slots__ = ("held", "last", "size", "slots", "total", "width", "window")

    def __init__(self, window: Window) -> None:
        self.window = window
        self.width = -(-window.span_s * SECOND // BUCKETS)  # rounded up: never a shorter window
        self.size = BUCKETS + 1 + LAG
        self.slots = [0] * self.size
        self.total = 0
        self.held = 0
        self.last = 0  # absolute index of the newest bucket

    def advance(self, now: int, day: int) -> int:
        """Let what is out of the window go; the index of the bucket that takes charges now.

        ``day`` is the ordinal of the calendar day for calendar windows, which have one bucket. A clock that steps
        backwards moves nothing: charges then go to the newest bucket, which keeps them longer, never shorter.
        """
        if self.window.calendar:
            if day > self.last:
                self.last, self.total = day, 0
            return self.last
        index = now // self.width
        gone = index - self.last
        if gone <= 0:
            return self.last
        if gone >= self.size:
            self.slots = [0] * self.size
            self.total = 0
        else:
            size, slots = self.size, self.slots
            for step in range(self.last + 1, index + 1):
                place = step % size
                self.total -= slots[place]
                slots[place] = 0
        self.last = index
        return index

    def add(self, bucket: int, amount: int) -> None:
        """Charge ``amount`` (may be negative) into ``bucket``; one that is out of the window is no more."""
        if self.window.calendar:
            if bucket == self.last:
                self.total += amount
        elif self.last - bucket < self.size:
            self.slots[bucket % self.size] += amount
            self.total += amount

    def room_in(self, now: int, amount: int, day_ends_s: float) -> float:
        """Seconds until ``amount`` more fits, if nothing else is granted and every hold comes true."""
        short = self.total + self.held + amount - self.window.limit
        if short <= 0:
            return 0.0
        if self.window.calendar:
            return day_ends_s
        for age in range(self.size - 1, -1, -1):
            bucket = self.last - age
            short -= self.slots[bucket % self.size]
            if short <= 0:
                return max(1, (bucket + self.size) * self.width - now) / SECOND
        return (self.size - 1) * self.width / SECOND  # only when the holds of others end


class Ledger:
    """All windows of one target."""

    __slots__ = ("gate", "gate_window", "rings", "windows")

    def __init__(self, windows: tuple[Window, ...]) -> None:
        self.windows = windows
        self.rings = [Ring(window) for window in windows]
        self.gate = 0  # nothing is granted before this moment: the provider said so
        self.gate_window = ""

    def reserve(self, now: int, days: tuple[int, ...], ends_s: tuple[float, ...], need: Need) -> Verdict:
        """Charge every window, or none. ``days`` and ``ends_s`` per window as ``calendar_of`` gives them."""
        if now < self.gate:
            return Verdict(None, (self.gate - now) / SECOND, self.gate_window)
        buckets = tuple(ring.advance(now, day) for ring, day in zip(self.rings, days, strict=True))
        wait, worst = 0.0, ""
        for ring, end in zip(self.rings, ends_s, strict=True):
            amount = ring.window.charges(need) + ring.window.holds(need)
            if ring.total + ring.held + amount > ring.window.limit:
                room = ring.room_in(now, amount, end)
                if room > wait:
                    wait, worst = room, ring.window.name
        if worst:
            return Verdict(None, wait, worst)
        for ring, bucket in zip(self.rings, buckets, strict=True):
            ring.add(bucket, ring.window.charges(need))
            ring.held += ring.window.holds(need)
        return Verdict(Entry(need, buckets))

    def settle(self, now: int, days: tuple[int, ...], entry: Entry, true: Need) -> None:
        """Put the truth in the estimate's place."""
        for ring, bucket, day in zip(self.rings, entry.buckets, days, strict=True):
            window = ring.window
            current = ring.advance(now, day)
            ring.add(bucket, window.charges(true) - window.charges(entry.need))
            ring.held -= window.holds(entry.need)
            ring.add(current, window.holds(true))

    def release(self, now: int, days: tuple[int, ...], entry: Entry) -> None:
        """Nothing was sent: as if it had never been reserved."""
        for ring, bucket, day in zip(self.rings, entry.buckets, days, strict=True):
            ring.advance(now, day)
            ring.add(bucket, -ring.window.charges(entry.need))
            ring.held -= ring.window.holds(entry.need)

    def close_until(self, moment: int, window: str = "") -> None:
        """A hard gate: the provider named a time. It only ever moves later, and ends by itself."""
        if moment > self.gate:
            self.gate, self.gate_window = moment, window

    def levels(self, now: int, days: tuple[int, ...], ends_s: tuple[float, ...]) -> tuple[Level, ...]:
        found = []
        for ring, day, end in zip(self.rings, days, ends_s, strict=True):
            ring.advance(now, day)
            used = ring.total + ring.held
            resets = end if ring.window.calendar else float(ring.window.span_s if used else 0)
            found.append(Level(ring.window, used, ring.held, resets))
        return tuple(found)


def refuse_what_never_fits(target: str, windows: tuple[Window, ...], need: Need) -> None:
    """Raise ``NeverFits`` where waiting cannot help, naming the limit."""
    for window in windows:
        if window.charges(need) > window.limit:
            raise NeverFits(
                f"this request needs about {need.input} input tokens; {target} allows {window.limit} "
                f"{window.count.replace('_', ' ')} in {window.span_s} s, so it can never fit"
            )


def cap(windows: tuple[Window, ...], need: Need) -> Need:
    """The need with its predicted output cut to what could ever fit: a prediction never refuses a request."""
    output = need.output
    for window in windows:
        if window.holds(need):
            output = min(output, window.limit - window.charges(need))
    return need if output == need.output else Need(need.input, max(0, output))
