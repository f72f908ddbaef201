"""Exact sliding windows: every charge is kept with its time until it leaves the window.

Times are arguments, in seconds on a monotonic clock, so that tests can choose them. A charge made at ``t`` counts from
``t`` up to, and not including, ``t + span``.
"""

from collections import deque

from msgspec import Struct


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Requests and tokens per minute and per day; 0 means unlimited."""

    rpm: int = 0
    tpm: int = 0
    rpd: int = 0
    tpd: int = 0


class Rejection(Struct, frozen=True):
    """The window that rejected a request, and the seconds until the request would fit."""

    window: str  # rpm, tpm, rpd or tpd
    limit: int
    used: int
    wait_s: float


class Window:
    """The charges of the last ``span_s`` seconds, and their highest sum so far."""

    __slots__ = ("_charges", "peak", "peak_share", "span_s", "total")

    def __init__(self, span_s: float) -> None:
        self.span_s = span_s
        self.total = 0
        self.peak = 0
        self.peak_share = 0.0  # of the limit in force at the time
        self._charges: deque[tuple[float, int]] = deque()

    def used(self, now: float) -> int:
        """The sum of the charges in the window at ``now``."""
        charges = self._charges
        while charges and charges[0][0] + self.span_s <= now:
            self.total -= charges.popleft()[1]
        return self.total

    def add(self, now: float, amount: int, limit: int) -> None:
        """Charge ``amount`` at ``now``; ``limit`` is the limit in force."""
        if amount <= 0:
            return
        self._charges.append((now, amount))
        self.total += amount
        used = self.used(now)
        self.peak = max(self.peak, used)
        if limit:
            self.peak_share = max(self.peak_share, used / limit)

    def wait(self, now: float, amount: int, limit: int) -> float:
        """Seconds until ``amount`` fits if nothing else is charged; a whole span if it never does."""
        excess = self.used(now) + amount - limit
        if excess <= 0:
            return 0.0
        for at, charged in self._charges:
            excess -= charged
            if excess <= 0:
                return at + self.span_s - now
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

    def admit(self, now: float, tokens: int) -> Rejection | None:
        """Charge one request and its input tokens; or return the window that rejects it longest, and charge nothing."""
        worst: Rejection | None = None
        for name, window in self.windows.items():
            limit: int = getattr(self.limits, name)
            if not limit:
                continue
            amount = 1 if name[0] == "r" else tokens
            used = window.used(now)
            if used + amount > limit:
                wait = window.wait(now, amount, limit)
                if worst is None or wait > worst.wait_s:
                    worst = Rejection(name, limit, used, wait)
        if worst is None:
            self._charge(now, "r", 1)
            self._charge(now, "t", tokens)
        return worst

    def complete(self, now: float, tokens: int) -> None:
        """Charge the output tokens of a finished answer, whether or not they fit."""
        if self.output_counts:
            self._charge(now, "t", tokens)

    def _charge(self, now: float, kind: str, amount: int) -> None:
        for name, window in self.windows.items():
            limit: int = getattr(self.limits, name)
            # Without a limit nothing is charged: the charges would take memory and be of no use.
            if name[0] == kind and limit:
                window.add(now, amount, limit)
