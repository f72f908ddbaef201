"""Calendar days in a zone: which day it is, and when it ends. On days of a clock change they last 23 or 25 hours."""

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
    """The calendar days of a set of windows. They are computed when a day has changed, not for every request."""

    __slots__ = ("_days", "_ends", "_valid_from", "_valid_until", "_windows")

    def __init__(self, windows: tuple[Window, ...]) -> None:
        self._windows = windows
        self._valid_from = self._valid_until = 0
        self._days: tuple[int, ...] = ()
        self._ends: tuple[int, ...] = ()

    def at(self, now: int) -> Moment:
        """A point in time (microseconds) as these windows see it; ``ends`` is the same object all day."""
        if not self._valid_from <= now < self._valid_until:
            moment = moment_of(self._windows, now)
            self._days, self._ends = moment.days, moment.ends
            self._valid_from = now
            self._valid_until = min((end for end in moment.ends if end), default=maxsize)
        return Moment(now, self._days, self._ends)


def moment_of(windows: tuple[Window, ...], now: int) -> Moment:
    """A point in time (microseconds) as these windows see it."""
    if not any(window.calendar for window in windows):
        zeros = (0,) * len(windows)
        return Moment(now, zeros, zeros)
    # The calendar windows of a target share one kind of day, as a rule.
    kinds = {(window.zone, window.reset_s) for window in windows if window.calendar}
    days = {kind: day_at(now / SECOND, *kind) for kind in kinds}
    each = [days.get((window.zone, window.reset_s), (0, 0.0)) for window in windows]
    return Moment(now, tuple(day for day, _ in each), tuple(round(end * SECOND) for _, end in each))
