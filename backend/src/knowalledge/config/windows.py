"""What a target's ``quota`` allows: each form that it may be written in, as windows.

What is wrong is added to ``faults`` with its key and its cure; nothing here raises.
"""

import re
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from knowalledge.core.parsers import DAY, duration_or_zero, positive
from knowalledge.core.settings import Fault, nearest
from knowalledge.providers import registry as providers
from knowalledge.quota.domain.window import Count, Window

MAX_WINDOWS = 16
WINDOW_KEYS = ("count", "limit", "window", "resets_at")

# The short forms: what they count, and the seconds of the window.
_SHORT = {
    "rpm": (Count.REQUESTS, 60),
    "tpm": (Count.TOKENS, 60),
    "rpd": (Count.REQUESTS, DAY),
    "tpd": (Count.TOKENS, DAY),
}
_PACIFIC = "America/Los_Angeles"
# Requests per minute at which the search for an unpublished limit begins.
_FIRST_RPM = 60


def parse_quota(key: str, written: Any, provider: str, faults: list[Fault]) -> tuple[Window, ...]:
    """``{rpm: 120}``, a list of windows, ``learn``, or None: unlimited. The provider decides which tokens count."""
    if written is None:
        return ()
    if written == "learn":
        return (Window("learnt", Count.REQUESTS, _FIRST_RPM, 60, learn=True),)
    if not isinstance(written, dict | list):
        cure = "write quota: {rpm: 120, tpm: 60000}, or quota: learn"
        faults.append(Fault(key, "is neither a mapping nor a list", cure))
        return ()
    if not 1 <= len(written) <= MAX_WINDOWS:
        cure = f"write 1 to {MAX_WINDOWS}, or leave quota out: unlimited"
        faults.append(Fault(key, f"has {len(written)} windows", cure))
        return ()
    if isinstance(written, dict):
        return tuple(_short(key, name, limit, provider, faults) for name, limit in written.items())
    windows = tuple(_window(f"{key}[{index}]", entry, faults) for index, entry in enumerate(written))
    if len({it.name for it in windows}) < len(windows):
        faults.append(Fault(key, "has the same window twice", "keep the one with the lower limit"))
    return windows


def _limit(key: str, value: object, faults: list[Fault]) -> int:
    try:
        return positive(value)
    except ValueError as error:
        faults.append(Fault(key, f"{value!r} is not a limit", str(error)))
        return 1


def _short(key: str, name: str, limit: object, provider: str, faults: list[Fault]) -> Window:
    if name not in _SHORT:
        faults.append(Fault(f"{key}.{name}", "no such window", nearest(str(name), list(_SHORT))))
        return Window(str(name), Count.REQUESTS, 1, 60)
    count, span_s = _SHORT[name]
    descriptor = providers.PROVIDERS.get(provider)
    if descriptor and count is Count.TOKENS:
        count = descriptor.tokens
    zone = descriptor.day_zone if descriptor and span_s == DAY else ""
    return Window(name, count, _limit(f"{key}.{name}", limit, faults), span_s, zone)


def _window(key: str, written: Any, faults: list[Fault]) -> Window:
    if not isinstance(written, dict):
        faults.append(Fault(key, "is not a mapping", "write {count: requests, limit: 120, window: 60s}"))
        return Window("", Count.REQUESTS, 1, 60)
    for unknown in (it for it in written if it not in WINDOW_KEYS):
        faults.append(Fault(f"{key}.{unknown}", "no such key", nearest(str(unknown), list(WINDOW_KEYS))))
    try:
        count = Count(written.get("count", ""))
    except ValueError:
        faults.append(Fault(f"{key}.count", "is not a count", f"choose one of {', '.join(Count)}"))
        count = Count.REQUESTS
    limit = _limit(f"{key}.limit", written.get("limit"), faults)
    span = written.get("window")
    zone, reset_s = "", 0
    if span == "day":
        span_s = DAY
        zone, reset_s = _reset(f"{key}.resets_at", written.get("resets_at", f"00:00 {_PACIFIC}"), faults)
    else:
        span_s = _span(f"{key}.window", span, faults)
        if "resets_at" in written:
            faults.append(Fault(f"{key}.resets_at", "is for window: day", "drop it, or write window: day"))
    return Window(f"{count.value}-{span}", count, limit, span_s, zone, reset_s)


def _span(key: str, span: object, faults: list[Fault]) -> int:
    """Whole seconds: rounded down, a window would allow more than it says."""
    try:
        seconds = duration_or_zero(span)
    except ValueError as error:
        faults.append(Fault(key, f"{span!r} is not a window", f"{error}, or day"))
        return 60
    if seconds < 1 or seconds != int(seconds):
        faults.append(Fault(key, f"{span!r} is not whole seconds", "write 1s or more"))
        return 60
    return int(seconds)


def _reset(key: str, written: object, faults: list[Fault]) -> tuple[str, int]:
    """The zone, and the seconds after its midnight."""
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d) ([A-Za-z_/+0-9-]{1,64})", str(written))
    if not match:
        cure = 'write "00:00 America/Los_Angeles"'
        faults.append(Fault(key, f"{written!r} is not a time in a zone", cure))
        return "UTC", 0
    hours, minutes, zone = match.groups()
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        faults.append(Fault(key, f"no zone {zone!r}", "write an IANA zone such as America/Los_Angeles"))
        return "UTC", 0
    return zone, int(timedelta(hours=int(hours), minutes=int(minutes)).total_seconds())
