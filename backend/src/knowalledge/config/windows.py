"""What a target's ``quota`` allows: each form that it may be written in, as windows.

What is wrong is added to ``faults`` with its key and its cure; nothing here raises.
"""

import re
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from knowalledge.config.sources import unabridged
from knowalledge.core.parsers import DAY, duration_or_zero, positive
from knowalledge.core.settings import REMOVE, Fault, write
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
_MIDNIGHT = f'"00:00 {_PACIFIC}"'
_EXAMPLE = "{count: requests, limit: 120, window: 60s}"
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
        faults.append(Fault(key, "is neither a mapping nor a list", cure, write("quota: {rpm: 120}")))
        return ()
    if not 1 <= len(written) <= MAX_WINDOWS:
        cure = f"write 1 to {MAX_WINDOWS}, or leave quota out: unlimited"
        faults.append(Fault(key, f"has {len(written)} windows", cure, REMOVE))
        return ()
    if isinstance(written, dict):
        pairs = unabridged(key, written, list(_SHORT), faults)
        return tuple(_short(key, name, limit, provider, faults) for name, limit in pairs)
    before = len(faults)
    windows = tuple(_window(f"{key}[{index}]", entry, faults) for index, entry in enumerate(written))
    names = [it.name for it in windows]
    for index, name in enumerate(names):
        if name in names[:index] and len(faults) == before:
            cure = "keep the one with the lower limit"
            faults.append(Fault(f"{key}[{index}]", "is the same window again", cure, REMOVE))
    return windows


def _limit(key: str, value: object, faults: list[Fault]) -> int:
    try:
        return positive(value)
    except ValueError as error:
        wrong = "has no value" if value is None else f"{value!r} is not a limit"
        pair = f"{key.rpartition('.')[2]}: 60"
        faults.append(Fault(key, wrong, str(error), write(pair)))
        return 1


def _short(key: str, name: str, limit: object, provider: str, faults: list[Fault]) -> Window:
    count, span_s = _SHORT[name]
    descriptor = providers.PROVIDERS.get(provider)
    if descriptor and count is Count.TOKENS:
        count = descriptor.tokens
    zone = descriptor.day_zone if descriptor and span_s == DAY else ""
    return Window(name, count, _limit(f"{key}.{name}", limit, faults), span_s, zone)


def _window(key: str, written: Any, faults: list[Fault]) -> Window:
    if not isinstance(written, dict):
        faults.append(Fault(key, "is not a mapping", f"write {_EXAMPLE}", write(_EXAMPLE)))
        return Window("", Count.REQUESTS, 1, 60)
    written = dict(unabridged(key, written, list(WINDOW_KEYS), faults))
    try:
        count = Count(written.get("count", ""))
    except ValueError:
        cure = f"choose one of {', '.join(Count)}"
        faults.append(Fault(f"{key}.count", "is not a count", cure, write("count: requests")))
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
            cure = "remove it, or write window: day"
            faults.append(Fault(f"{key}.resets_at", "is for window: day", cure, REMOVE))
    return Window(f"{count.value}-{span}", count, limit, span_s, zone, reset_s)


def _span(key: str, span: object, faults: list[Fault]) -> int:
    """Whole seconds: rounded down, a window would allow more than it says."""
    try:
        seconds = duration_or_zero(span)
    except ValueError as error:
        wrong = "has no value" if span is None else f"{span!r} is not a window"
        faults.append(Fault(key, wrong, f"{error}, or day", write("window: 60s")))
        return 60
    if seconds < 1 or seconds != int(seconds):
        faults.append(Fault(key, f"{span!r} is not whole seconds", "write 1s or more", write("window: 1s")))
        return 60
    return int(seconds)


def _reset(key: str, written: object, faults: list[Fault]) -> tuple[str, int]:
    """The zone, and the seconds after its midnight."""
    match = re.fullmatch(r"([01]\d|2[0-3]):([0-5]\d) ([A-Za-z_/+0-9-]{1,64})", str(written))
    if not match:
        cure = f"write {_MIDNIGHT}"
        faults.append(
            Fault(key, f"{written!r} is not a time in a zone", cure, write(f"resets_at: {_MIDNIGHT}"))
        )
        return "UTC", 0
    hours, minutes, zone = match.groups()
    try:
        ZoneInfo(zone)
    except (ValueError, OSError, KeyError):
        cure, pair = f"write an IANA zone such as {_PACIFIC}", f'resets_at: "{hours}:{minutes} {_PACIFIC}"'
        faults.append(Fault(key, f"no zone {zone!r}", cure, write(pair)))
        return "UTC", 0
    return zone, int(timedelta(hours=int(hours), minutes=int(minutes)).total_seconds())
