"""The charges of one window as a ring of buckets, and its pace."""

from bisect import bisect_left
from math import floor

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.quota.domain.ceiling import CLIMB_FACTOR, Ceiling
from knowalledge.quota.domain.window import BUCKETS, PACED_SPAN_S, SECOND, Backlog, TokenCost, Window

SIZE = BUCKETS + 1  # one more, so that a bucket counts until all of it has left the window
# What may be spent of a learnt limit ahead of an even pace: two seconds of a minute, and at least two requests.
LEARNT_BURST = 1 / 30


class DegradedShare(Struct, frozen=True):
    """What one of several replicas may use of a window while it cannot ask the others.

    Until everything that was charged before the loss has left the window: what it had used itself, and its part of
    what was free, so all replicas together stay below the limit; and of new requests no more than an equal part of the
    limit, so they still do when the old charges leave. From then on an equal part.
    """

    until: int  # the moment at which everything charged before the loss has left the window
    reserved_before: int  # for the other replicas, before ``until`` ...
    reserved_after: int  # ... and after it
    granted_limit: int  # of new requests before ``until``


class Ring:
    """The charges of one window, by bucket, and its pace."""

    __slots__ = (
        "_even_pace",
        "_set_backs",
        "_sums",
        "ceiling",
        "charged",
        "counts_input",
        "counts_output",
        "counts_requests",
        "degraded_share",
        "granted",
        "guard",
        "held",
        "newest",
        "pace_debt",
        "paced_at",
        "reserved_for_peers",
        "width",
        "window",
    )

    def __init__(self, window: Window) -> None:
        self.window = window
        # Factors, 1 or 0. To ask the window each time would be half the cost of a decision.
        self.counts_requests = window.charge_of(TokenCost(0, 0))
        self.counts_input = window.charge_of(TokenCost(1, 0), 0)
        self.counts_output = window.hold_of(TokenCost(0, 1))
        self.ceiling = Ceiling(window.limit) if window.learn else None
        self.width = window.width
        self.guard = window.guard
        self._even_pace = window.limit / (window.span_s * SECOND)
        # For each bucket everything that was ever charged up to its end, so that the moment at which an amount leaves
        # the window is found by bisection. A correction walks from its bucket to the newest.
        self._sums = [0] * SIZE
        self.charged = 0  # in the window
        self.held = 0  # output of answers that are not complete
        self.newest = 0  # absolute index of the newest bucket, or the calendar day
        self.pace_debt = 0.0  # granted ahead of an even pace ...
        self.paced_at = 0  # ... at this moment
        self.granted = 0  # since all replicas together were last seen, or since the loss
        self.degraded_share: DegradedShare | None = None
        self.reserved_for_peers = 0
        self._set_backs: list[tuple[int, int]] = []  # newest bucket before and after each

    def advance(self, now: int, day: int) -> int:
        """Drop what has left the window; the index of the bucket that takes charges now.

        A clock that steps back a little moves nothing: charges then go to the newest bucket, which keeps them longer,
        never shorter.
        """
        share = self.degraded_share
        if share is not None:
            self.reserved_for_peers = share.reserved_before if now < share.until else share.reserved_after
        if now > self.paced_at:
            if self.pace_debt:
                self.pace_debt = max(0.0, self.pace_debt - (now - self.paced_at) * self.pace)
            self.paced_at = now
        if self.window.zone:
            if day > self.newest:
                self.newest, self.charged = day, 0
            return self.newest
        index = now // self.width
        steps = index - self.newest
        if steps <= 0:
            return self.newest
        latest_sum = self._sums[self.newest % SIZE]
        if steps >= SIZE:
            self._sums = [latest_sum] * SIZE
            self.charged = 0
        else:
            self.charged = latest_sum - self._sums[index % SIZE]
            for step in range(self.newest + 1, index + 1):
                self._sums[step % SIZE] = latest_sum
        self.newest = index
        return index

    def set_back(self, now: int, day: int, by: int) -> None:
        """The clock was set back: all charges count as charged now, so that none of them ends too early."""
        self.paced_at = now
        before = self.newest
        if self.window.zone:
            self.newest = min(before, day)
        else:
            self.newest = now // self.width
            self._sums = [0] * SIZE
            self._sums[self.newest % SIZE] = self.charged
        self._set_backs.append((before, self.newest))
        if self.ceiling is not None:
            self.ceiling.set_back(by)
        if self.degraded_share is not None:
            self.degraded_share = replace(self.degraded_share, until=self.degraded_share.until - by)

    def moved_bucket(self, bucket: int, set_backs: int) -> int:
        """Where a charge into ``bucket`` is after all but the first ``set_backs`` set-backs of the clock.

        A charge that had left the window stays out.
        """
        size = 1 if self.window.zone else SIZE
        for before, after in self._set_backs[set_backs:]:
            bucket = after if before - bucket < size else after - size
        return bucket

    @property
    def used(self) -> int:
        """Charged, held, and reserved for the other replicas."""
        return self.charged + self.held + self.reserved_for_peers

    def charge_and_hold(self, cost: TokenCost) -> tuple[int, int]:
        """What one request is charged at once, and what is held until its answer is complete."""
        return self.counts_requests + self.counts_input * cost.input, self.counts_output * cost.output

    def amount_of(self, backlog: Backlog) -> int:
        """What a backlog takes of this window, less what is released by then."""
        cost, ratio = backlog.cost, backlog.expected_release_ratio
        amount = (
            self.counts_requests * backlog.count
            + self.counts_input * cost.input
            + self.counts_output * cost.output
        )
        return amount - floor(self.held * ratio) if ratio else amount

    def by_bucket(self) -> dict[int, int]:
        """The charges, by bucket."""
        if self.window.calendar:
            return {self.newest: self.charged} if self.charged else {}
        charges = {}
        before = self._sums[self.newest % SIZE] - self.charged
        for bucket in range(max(0, self.newest - SIZE + 1), self.newest + 1):
            amount = self._sums[bucket % SIZE] - before
            if amount:
                charges[bucket] = amount
                before += amount
        return charges

    @property
    def limit(self) -> int:
        return self.ceiling.limit if self.ceiling else self.window.limit

    @property
    def pace(self) -> float:
        """What an even pace spends in a microsecond."""
        if self.ceiling is None:
            return self._even_pace
        even = self.ceiling.limit / (self.window.span_s * SECOND)
        return even * CLIMB_FACTOR if self.ceiling.climbing else even

    def add(self, bucket: int, amount: int) -> None:
        """Charge ``amount``, which may be negative, into ``bucket``; one that has left the window is no more."""
        if self.window.calendar:
            if bucket >= self.newest:  # later: the clock was set back since
                self.charged += amount
        elif amount and self.newest - bucket < SIZE:
            for step in range(min(bucket, self.newest), self.newest + 1):
                self._sums[step % SIZE] += amount
            self.charged += amount

    def adjust_pace_debt(self, amount: int) -> None:
        """Correct the debt by what was granted too much or too little."""
        self.pace_debt = max(0.0, self.pace_debt + amount)

    def wait_for_capacity(self, now: int, amount: int, limit: int, day_ends: int) -> int:
        """Microseconds until ``amount`` more fits, if nothing else is granted and every hold comes true.

        An amount larger than the window fits after as many windows as it fills.
        """
        share = self.degraded_share
        if share is not None and now < share.until and self.granted + amount > share.granted_limit:
            return share.until - now
        excess = self.charged + self.held + self.reserved_for_peers + amount - limit
        if excess <= 0:
            return 0
        if self.window.zone:
            return day_ends - now + (excess - 1) // limit * self.window.span_s * SECOND
        if excess > self.charged:
            return (SIZE - 1) * self.width + int((excess - self.charged) / self.pace)
        enough = self._sums[self.newest % SIZE] - self.charged + excess
        oldest = (self.newest + 1) % SIZE
        place = bisect_left(self._sums, enough, oldest)
        if place == SIZE:
            place += bisect_left(self._sums, enough, 0, oldest)
        return max(1, (self.newest + 1 + place - oldest) * self.width - now)

    def wait_for_pace(self, now: int, amount: int, burst: float, ahead: int = 0) -> int:
        """Microseconds until ``amount``, after ``ahead`` more, keeps to an even pace but for ``burst``.

        While the clock is behind the latest moment seen, no debt is paid.
        """
        least = 0.0
        if self.ceiling is not None:
            # A limit that is not published may well be counted by the second. While it climbs, requests go one by one,
            # so that few are under way when one is rejected.
            burst, least = (0.0, 1.0) if self.ceiling.climbing else (min(burst, LEARNT_BURST), 2.0)
        debt = self.pace_debt + ahead
        if burst >= 1 or self.window.span_s > PACED_SPAN_S or debt <= 0:
            return 0
        excess = debt + amount - max(burst * self.limit, least)
        # An amount larger than the burst goes as soon as the debt is paid.
        return self.paced_at - now + int(min(excess, debt) / self.pace) + 1 if excess > 0 else 0
