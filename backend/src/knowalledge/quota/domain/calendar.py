"""Calendar days in a zone: which day it is, and when it ends. DST days last 23 or 25 hours."""

from datetime import datetime, timedelta
from sys import maxsize
from zoneinfo import ZoneInfo

from knowalledge.quota.domain.window import SECOND, Moment, Window


def day_at(now: float, zone: str, reset_s: int) -> tuple[int, float]:
    """The ordinal of the day that ``now`` (epoch seconds) falls in, and the epoch second at which it ends.

    A day begins ``reset_s`` seconds of wall clock after midnight in the IANA ``zone``.
    """
    tz = ZoneInfo(zone)
    shift = timedelta(seconds=reset_s)
    local = datetime.fromtimestamp(now, tz).replace(tzinfo=None) - shift
    next_start = datetime.combine(local.date() + timedelta(days=1), datetime.min.time()) + shift
    return local.toordinal(), next_start.replace(tzinfo=tz).timestamp()


class Days:
    """The moments of a set of windows. The day is looked up when it has changed, not for every request."""

    __slots__ = ("_ends", "_looked", "_over", "_windows", "_within")

    def __init__(self, windows: tuple[Window, ...]) -> None:
        self._windows = windows
        self._looked = self._over = 0  # from the moment of the last look until this one nothing changes
        self._within: tuple[int, ...] = ()
        self._ends: tuple[int, ...] = ()

    def at(self, now: int) -> Moment:
        """A point in time (microseconds) as these windows see it; ``ends`` is the same object all day."""
        if not self._looked <= now < self._over:
            found = moment_of(self._windows, now)
            self._within, self._ends = found.days, found.ends
            self._looked, self._over = now, min((end for end in found.ends if end), default=maxsize)
        return Moment(now, self._within, self._ends)


def moment_of(windows: tuple[Window, ...], now: int) -> Moment:
    """A point in time (microseconds) as these windows see it."""
    if not any(window.calendar for window in windows):
        nothing = (0,) * len(windows)
        return Moment(now, nothing, nothing)
    days = {(it.zone, it.reset_s) for it in windows if it.calendar}
    at = {day: day_at(now / SECOND, *day) for day in days}  # one for the windows of a target, as a rule
    found = [at.get((it.zone, it.reset_s), (0, 0.0)) for it in windows]
    return Moment(now, tuple(day for day, _ in found), tuple(round(end * SECOND) for _, end in found))
