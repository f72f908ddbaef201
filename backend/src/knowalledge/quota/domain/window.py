"""Windows of a quota, what a request costs in them, and how they stand."""

from enum import StrEnum

from msgspec import Struct

from knowalledge.core.errors import NeverFits

# Buckets of one rolling window; 600 make 0.1 s of a minute, an error of at most 0.17%.
BUCKETS = 600
# Seconds that a charge outlives its window: the difference between the slowest and the fastest way of a request to
# the provider that is allowed for. Half a percent of a minute.
GUARD_S = 0.3
SECOND = 1_000_000  # microseconds
# Longest window (seconds) that is paced. A day is not: 10,000 requests a day need not come every 8.6 seconds.
PACED_SPAN_S = 120


class Count(StrEnum):
    """What a window counts."""

    REQUESTS = "requests"
    TOKENS = "tokens"  # input and output
    INPUT = "input_tokens"
    OUTPUT = "output_tokens"


class TokenCost(Struct, frozen=True):
    """Tokens of one request, or of several together: estimated before, actual after."""

    input: int
    output: int


class Backlog(Struct, frozen=True):
    """What is ahead of a request."""

    count: int  # requests
    cost: TokenCost  # of all of them
    expected_release_ratio: float = 0.0  # part of everything held now that is released by then


NO_BACKLOG = Backlog(0, TokenCost(0, 0))


class Window(Struct, frozen=True):
    """At most ``limit`` of ``count`` in any ``span_s`` seconds, or in a calendar day of ``zone``."""

    name: str
    count: Count
    limit: int
    span_s: int
    zone: str = ""  # calendar windows: the IANA zone ...
    reset_s: int = 0  # ... and seconds after its midnight at which the day begins
    learn: bool = False  # the limit is not published: start with this one and learn it

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

    def charge_of(self, cost: TokenCost, requests: int = 1) -> int:
        """The part of a cost that is charged at once."""
        if self.count is Count.REQUESTS:
            return requests
        return cost.input if self.count in (Count.TOKENS, Count.INPUT) else 0

    def hold_of(self, cost: TokenCost) -> int:
        """The part of a cost that is held until the answer is complete."""
        return cost.output if self.count in (Count.TOKENS, Count.OUTPUT) else 0


class Moment(Struct, frozen=True):
    """A point in time, and for each window the calendar day it falls in and that day's end (0 if rolling)."""

    now: int  # microseconds since the epoch
    days: tuple[int, ...]  # ordinals
    ends: tuple[int, ...]  # microseconds since the epoch


class LevelPolicy(Struct, frozen=True):
    """What a priority level may use of each limit."""

    ceiling: float = 1.0  # part of the limit, 0 to 1
    burst: float = 1.0  # part of the limit that may be spent ahead of an even pace; 1: not paced

    def required_capacity(self, limit: int, amount: int) -> int:
        """Free capacity required: ``amount`` plus the part held back for higher priorities, at most the limit.

        So an amount that does not fit under the ceiling goes when the window is empty enough for it alone.
        """
        if self.ceiling == 1.0:
            return amount
        return max(amount, min(limit, amount + limit - int(limit * self.ceiling)))


UNLIMITED = LevelPolicy()


class WindowStatus(Struct, frozen=True):
    """One window as it stands."""

    window: Window
    used: int  # charged and held
    held: int
    resets_s: float  # until everything counted now has left the window
    limit: int  # the window's own, or the learnt one


def window_status(
    window: Window, used: int, held: int, limit: int, at: Moment, day_ends: int
) -> WindowStatus:
    """``day_ends``: microseconds, of a calendar window."""
    resets_s = (day_ends - at.now) / SECOND if window.calendar else float(window.span_s if used else 0)
    return WindowStatus(window, used, held, resets_s, limit)


def raise_if_never_fits(target: str, windows: tuple[Window, ...], cost: TokenCost) -> None:
    """Raise ``NeverFits``, which names the limit, where the charge is larger than a whole window."""
    for window in windows:
        if window.charge_of(cost) > window.limit and not window.learn:
            raise NeverFits(
                f"this request needs about {cost.input} input tokens; {target} allows {window.limit} "
                f"{window.count.replace('_', ' ')} in {window.span_s} s, so it can never fit"
            )


def cap_output(windows: tuple[Window, ...], cost: TokenCost) -> TokenCost:
    """The cost with its predicted output cut to what can fit: a prediction never refuses a request."""
    output = cost.output
    for window in windows:
        if window.hold_of(cost) and not window.learn:
            output = min(output, window.limit - window.charge_of(cost))
    return cost if output == cost.output else TokenCost(cost.input, max(0, output))
