"""Windows of a quota, what a request costs in them, and how they stand."""

from enum import StrEnum

from msgspec import Struct

from knowalledge.core.errors import NeverFits

# One window is this many buckets; 600 makes 0.1 s of a minute, an error of at most 0.17%.
BUCKETS = 600
# Seconds by which a charge outlives its window: by so much the way of one request to the provider may be longer than
# the way of a later one. Half a percent of a minute.
GUARD_S = 0.3
SECOND = 1_000_000
# Windows up to this are paced. A day is not: who may ask 10,000 times a day need not ask every 8.6 seconds.
PACED_SPAN_S = 120


class Count(StrEnum):
    REQUESTS = "requests"
    TOKENS = "tokens"  # input and output
    INPUT = "input_tokens"
    OUTPUT = "output_tokens"


class TokenCost(Struct, frozen=True):
    """What one request takes: estimated before, true after. Tokens."""

    input: int
    output: int

    def plus(self, other: "TokenCost") -> "TokenCost":
        return TokenCost(self.input + other.input, self.output + other.output)


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

    def charges(self, need: TokenCost, requests: int = 1) -> int:
        """What of a need is charged at once."""
        if self.count is Count.REQUESTS:
            return requests
        return need.input if self.count in (Count.TOKENS, Count.INPUT) else 0

    def holds(self, need: TokenCost) -> int:
        """What of a need is held until the answer is complete."""
        return need.output if self.count in (Count.TOKENS, Count.OUTPUT) else 0


class Moment(Struct, frozen=True):
    """A point in time, and per window the calendar day it falls in and that day's end; zeros for rolling windows."""

    now: int  # microseconds
    days: tuple[int, ...]
    ends: tuple[int, ...]  # microseconds


class LevelPolicy(Struct, frozen=True):
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


UNLIMITED = LevelPolicy()


class WindowStatus(Struct, frozen=True):
    """One window as it stands."""

    window: Window
    used: int  # charged and held
    held: int
    resets_s: float  # until everything counted now is out
    limit: int  # the window's own, or what is learnt of it


def window_status(window: Window, used: int, held: int, limit: int, at: Moment, end: int) -> WindowStatus:
    """A window's level from its numbers."""
    resets = (end - at.now) / SECOND if window.calendar else float(window.span_s if used else 0)
    return WindowStatus(window, used, held, resets, limit)


def refuse_what_never_fits(target: str, windows: tuple[Window, ...], need: TokenCost) -> None:
    """Raise ``NeverFits`` where waiting cannot help, naming the limit."""
    for window in windows:
        if window.charges(need) > window.limit and not window.learn:
            raise NeverFits(
                f"this request needs about {need.input} input tokens; {target} allows {window.limit} "
                f"{window.count.replace('_', ' ')} in {window.span_s} s, so it can never fit"
            )


def cap(windows: tuple[Window, ...], need: TokenCost) -> TokenCost:
    """The need with its predicted output cut to what could ever fit: a prediction never refuses a request."""
    output = need.output
    for window in windows:
        if window.holds(need) and not window.learn:
            output = min(output, window.limit - window.charges(need))
    return need if output == need.output else TokenCost(need.input, max(0, output))
