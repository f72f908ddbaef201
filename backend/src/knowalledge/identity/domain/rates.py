"""How often a client may ask: sliding windows, each made of two fixed ones.

A window's count is that of the fixed window that runs, and of the one before the part that still lies within it. Of
the requests in any real window at most a few more than the limit are let in, if they came unevenly in the one before.
"""

from enum import Enum
from math import ceil

from msgspec import Struct

from knowalledge.core.limits import Allowance

# A replica counts alone while what is known of a window is at most NEAR of its limit, and what it has not told the
# others at most OWN of it. So each further replica lets in at most OWN of the limit too much, whatever comes at once.
NEAR, OWN = 0.5, 0.05
_SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86_400}


class Rate(Struct, frozen=True):
    """So many requests in any ``window_s`` seconds."""

    name: str  # as clients read it
    limit: int
    window_s: int


def rates_of(text: str) -> tuple[Rate, ...]:
    """Rates as the settings write them, such as ``20/minute;500/day``."""
    pairs = (it.split("/") for it in text.split(";") if it)
    return tuple(Rate(f"client-{unit}", int(limit), _SECONDS[unit]) for limit, unit in pairs)


class Window(Struct):
    """What is known of one window of one client. ``own`` is the part of ``count`` that no other replica knows yet."""

    rate: Rate
    index: int = 0
    count: int = 0
    before: int = 0
    own: int = 0


class Sent(Struct, frozen=True):
    """What one replica tells the others: the counts of windows, by their indices at that moment."""

    indices: tuple[int, ...]
    counts: tuple[int, ...]


class Room(Enum):
    """What a request would find in its client's windows."""

    FAR = "far"  # so much that a replica may count it alone
    SOME = "some"
    NONE = "none"


class ClientCount:
    """The windows of one client. Times are seconds since the epoch; they are given, never read."""

    def __init__(self, rates: tuple[Rate, ...]) -> None:
        self.windows = tuple(map(Window, rates))

    def weights(self, now: float) -> tuple[float, ...]:
        """The part of each window before that still counts; begins windows whose time has come."""
        return tuple(self._weight(it, now) for it in self.windows)

    def room(self, now: float) -> Room:
        """What one request more would find."""
        fullest = own = 0.0
        for it in self.windows:
            weight, limit = self._weight(it, now), it.rate.limit  # first: it begins the window
            fullest = max(fullest, (it.count + it.before * weight + 1) / limit)
            own = max(own, (it.own + 1) / limit)
        if fullest > 1:
            return Room.NONE
        return Room.FAR if fullest <= NEAR and own <= OWN else Room.SOME

    def add(self) -> None:
        """Count one request."""
        for it in self.windows:
            it.count += 1
            it.own += 1

    def allowances(self, now: float) -> tuple[Allowance, ...]:
        """What is left of each window, and when one that is full has room again."""
        return tuple(self._allowance(it, now) for it in self.windows)

    def take(self) -> Sent:
        """What the others shall learn; it counts as told until ``give_back``."""
        sent = Sent(tuple(it.index for it in self.windows), tuple(it.own for it in self.windows))
        for it in self.windows:
            it.own = 0
        return sent

    def give_back(self, sent: Sent) -> None:
        """The others could not be told."""
        for it, index, own in zip(self.windows, sent.indices, sent.counts, strict=True):
            if it.index == index:
                it.own += own

    def learn(self, sent: Sent, totals: tuple[int, ...]) -> None:
        """``totals``: for each window that was told of, its count over all replicas, and that of the one before."""
        for number, (it, index) in enumerate(zip(self.windows, sent.indices, strict=True)):
            if it.index == index:
                it.count, it.before = totals[2 * number] + it.own, totals[2 * number + 1]

    @staticmethod
    def _weight(it: Window, now: float) -> float:
        at = now / it.rate.window_s
        index = int(at)
        if index != it.index:
            it.before = it.count if index == it.index + 1 else 0
            it.index, it.count, it.own = index, 0, 0
        return 1.0 - (at - index)

    def _allowance(self, it: Window, now: float) -> Allowance:
        weight, rate = self._weight(it, now), it.rate
        left = int(rate.limit - it.count - it.before * weight)
        if left >= 1:
            resets = weight * rate.window_s
        elif it.count + 1 <= rate.limit:  # room comes as the window before leaves
            resets = (weight - (rate.limit - 1 - it.count) / it.before) * rate.window_s
        else:  # this one must end, and become a part of the next
            resets = (weight + 1 - (rate.limit - 1) / it.count) * rate.window_s
        return Allowance(rate.name, rate.limit, max(0, left), rate.window_s, max(1, ceil(resets)))
