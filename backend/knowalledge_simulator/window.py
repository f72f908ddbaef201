"""Exact sliding windows: every charge is remembered with its moment until it is out of the window.

Times are seconds on any clock that never steps back; they are arguments, so that tests can choose them. A charge made
at ``t`` counts at every moment before ``t + span`` and no longer at it.
"""

from collections import deque

from msgspec import Struct


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests and tokens, a minute and a day; 0 means unlimited."""

    rpm: int = 0
    tpm: int = 0
    rpd: int = 0
    tpd: int = 0


class Refusal(Struct, frozen=True):
    """Why a request was not admitted, and when it would be."""

    window: str  # rpm, tpm, rpd or tpd
    limit: int
    used: int
    wait_s: float


class Window:
    """What was charged within the last ``span_s`` seconds, and the most that it ever was."""

    __slots__ = ("_charges", "peak", "peak_share", "span_s", "total")

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self.total = 0
        self.peak = 0
        self.peak_share = 0.0  # of the limit that was in force then
        self._charges: deque[tuple[float, int]] = deque()

    def used(self, now: float) -> int:
        """The sum of what counts at ``now``."""
        charges = self._charges
        while charges and charges[0][0] + self.span_s <= now:
            self.total -= charges.popleft()[1]
        return self.total

    def add(self, now: float, amount: int, limit: int) -> None:
        """Charge ``amount`` at ``now``; ``limit`` is what was allowed at that moment."""
        if amount <= 0:
            return
        self._charges.append((now, amount))
        self.total += amount
        used = self.used(now)
        self.peak = max(self.peak, used)
        if limit:
            self.peak_share = max(self.peak_share, used / limit)

    def wait(self, now: float, amount: int, limit: int) -> float:
        """Seconds until ``amount`` more fits if nothing else is charged; a whole span if it never does."""
        short = self.used(now) + amount - limit
        if short <= 0:
            return 0.0
        for moment, charged in self._charges:
            short -= charged
            if short <= 0:
                return moment + self.span_s - now
        return self.span_s


class Quota:
    """The four windows of one model, checked together and charged together."""

    def __init__(self, limits: Limits, minute_s: float, day_s: float, output_counts: bool) -> None:
        self.limits = limits
        self.output_counts = output_counts
        self.windows = {
            "rpm": Window(minute_s),
            "rpd": Window(day_s),
            "tpm": Window(minute_s),
            "tpd": Window(day_s),
        }

    def admit(self, now: float, tokens: int) -> Refusal | None:
        """Charge one request and its input tokens; or say which window has no room, and charge nothing."""
        worst: Refusal | None = None
        for name, window in self.windows.items():
            limit: int = getattr(self.limits, name)
            if not limit:
                continue
            amount = 1 if name[0] == "r" else tokens
            used = window.used(now)
            if used + amount > limit:
                wait = window.wait(now, amount, limit)
                if worst is None or wait > worst.wait_s:
                    worst = Refusal(name, limit, used, wait)
        if worst is None:
            self._charge(now, "r", 1)
            self._charge(now, "t", tokens)
        return worst

    def complete(self, now: float, tokens: int) -> None:
        """Charge the output tokens of a finished answer. They are spent whether or not they fit."""
        if self.output_counts:
            self._charge(now, "t", tokens)

    def _charge(self, now: float, kind: str, amount: int) -> None:
        for name, window in self.windows.items():
            limit: int = getattr(self.limits, name)
            # A window without a limit is not kept: at any rate, for any time, it would only grow.
            if name[0] == kind and limit:
                window.add(now, amount, limit)
