"""Calendar days in a zone: which day it is, and when it ends. DST days last 23 or 25 hours."""

from datetime import datetime, timedelta
from zoneinfo import ZoneInfo


def day_at(now: float, zone: str, reset_s: int) -> tuple[int, float]:
    """The ordinal of the day that ``now`` (epoch seconds) falls in, and the epoch second at which it ends.

    A day begins ``reset_s`` seconds of wall clock after midnight in the IANA ``zone``.
    """
    tz = ZoneInfo(zone)
    shift = timedelta(seconds=reset_s)
    local = datetime.fromtimestamp(now, tz).replace(tzinfo=None) - shift
    next_start = datetime.combine(local.date() + timedelta(days=1), datetime.min.time()) + shift
    return local.toordinal(), next_start.replace(tzinfo=tz).timestamp()
