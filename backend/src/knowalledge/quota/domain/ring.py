"""The charges of one window as a ring of buckets, and its pace."""

from bisect import bisect_left

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.quota.domain.ceiling import CLIMB, Ceiling
from knowalledge.quota.domain.window import BUCKETS, PACED_SPAN_S, SECOND, TokenCost, Window

SIZE = BUCKETS + 1
# How far ahead of an even pace a learnt window may be spent: two seconds of a minute, and at least two requests.
LEARNT_BURST = 1 / 30


class DegradedShare(Struct, frozen=True):
    """What one of several replicas may take of a window while it cannot ask the others.

    Until everything spent before the loss is out of the window: no more than it had spent itself and its part of what
    was free, so all together stay below the limit; and of new requests no more than an equal part of the limit, so
    they still do when the old ones are out. From then on: an equal part.
    """

    until: int  # the moment at which everything spent before is out
    first: int  # not to be used until then ...
    last: int  # ... and not to be used after it
    part: int  # of new requests until then


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
        "moves",
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
        self.requests = window.charges(TokenCost(0, 0))
        self.inputs = window.charges(TokenCost(1, 0), 0)
        self.outputs = window.holds(TokenCost(0, 1))
        self.ceiling = Ceiling(window.limit) if window.learn else None
        self.width = window.width
        self.guard = window.guard
        self.even = window.limit / (window.span_s * SECOND)
        # All that was ever charged up to the end of each bucket, so that what has been freed by then is found by
        # bisection. A correction walks from its bucket to the newest: as many steps as the answer took.
        self.sums = [0] * SIZE
        self.total = 0
        self.held = 0
        self.apart: DegradedShare | None = None
        self.others = 0  # not ours to take while the other replicas cannot be asked
        self.granted = 0  # since they were last looked at, or since they cannot be
        self.last = 0  # absolute index of the newest bucket
        self.line = 0.0  # granted ahead of an even pace
        self.lined = 0  # the moment at which `line` was true
        self.moves: list[
            tuple[int, int]
        ] = []  # newest bucket before and after each time the clock was set back

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
        was = self.last
        if self.window.zone:
            self.last = min(was, day)
        else:
            self.last = now // self.width
            self.sums = [0] * SIZE
            self.sums[self.last % SIZE] = self.total
        self.moves.append((was, self.last))
        if self.ceiling is not None:
            self.ceiling.probe -= by
            self.ceiling.cut = max(1, self.ceiling.cut - by) if self.ceiling.cut else 0
        if self.apart is not None:
            self.apart = replace(self.apart, until=self.apart.until - by)

    def moved(self, bucket: int, moves: int) -> int:
        """The bucket that a charge into ``bucket`` is in after all but the first ``moves`` set-backs of the clock.

        One that was out of the window already stays out.
        """
        kept = 1 if self.window.zone else SIZE
        for was, last in self.moves[moves:]:
            bucket = last if was - bucket < kept else last - kept
        return bucket

    @property
    def used(self) -> int:
        """Charged, held, and not ours to take."""
        return self.total + self.held + self.others

    def takes(self, need: TokenCost) -> tuple[int, int]:
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
        even = self.ceiling.limit / (self.window.span_s * SECOND)
        return even * CLIMB if self.ceiling.climbing else even

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

    def pace_in(self, now: int, amount: int, burst: float, before: int = 0) -> int:
        """Microseconds until ``amount`` more, after ``before``, is no further ahead of an even pace than ``burst``.

        While the clock is behind the latest moment that was seen, the line stands still.
        """
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
        return self.lined - now + int(min(ahead, line) / self.rate) + 1 if ahead > 0 else 0
