"""What a setting may be written as: text or a YAML value in, the value out, or a ValueError with the cure."""

import re
from collections.abc import Callable
from urllib.parse import urlsplit

from knowalledge.core.context import Priority

DAY = 86_400

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_UNITS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES = re.compile(r"(\d+)\s*([KMG]i?B?|B)?", re.I)


def duration(value: object) -> float:
    match = _DURATION.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if not match:
        raise ValueError("write a duration such as 500ms, 30s, 5m, 1h")
    seconds = float(match[1]) * _UNITS[match[2]]
    if seconds > 366 * DAY:
        raise ValueError("write a duration of at most a year")
    return seconds


def span(value: object) -> float:
    """A duration that lasts."""
    seconds = duration(value)
    if not seconds:
        raise ValueError("write a duration above 0 such as 500ms, 30s, 5m, 1h")
    return seconds


def size(value: object) -> int:
    match = _BYTES.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if not match:
        raise ValueError("write a size such as 512KiB or 64MiB")
    power = {"": 0, "B": 0, "K": 1, "M": 2, "G": 3}[(match[2] or "").upper()[:1]]
    return int(match[1]) * int(1024**power)


def room(value: object) -> int:
    """A size that something fits into."""
    found = size(value)
    if not found:
        raise ValueError("write a size above 0 such as 512KiB or 64MiB")
    return found


def positive(value: object) -> int:
    if isinstance(value, bool) or not str(value).strip().isdecimal() or not 0 < int(str(value)) < 10**15:
        raise ValueError("write a whole number above 0")
    return int(str(value))


def natural(value: object) -> int:
    if isinstance(value, bool) or not str(value).strip().isdecimal() or int(str(value)) > 10**9:
        raise ValueError("write a whole number, 0 or above")
    return int(str(value))


def text(value: object) -> str:
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError("write a text")
    return str(value)


def boolean(value: object) -> bool:
    found = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}.get(
        str(value).lower()
    )
    if found is None:
        raise ValueError("write true or false")
    return found


def rate(value: object) -> str:
    """Whole requests a second, minute, hour or day."""
    found = text(value).strip()
    if found and not re.fullmatch(r"[1-9]\d{0,8}/(second|minute|hour|day)", found):
        raise ValueError("write a rate such as 600/minute")
    return found


def one_of(*names: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        if value not in names:
            raise ValueError(f"choose one of {', '.join(names)}")
        return str(value)

    return parse


def level(value: object) -> Priority:
    try:
        return Priority[str(value).upper()]
    except KeyError:
        raise ValueError("choose one of critical, high, medium, low") from None


def header_name(value: object) -> str:
    name = text(value)
    if name and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", name):
        raise ValueError("write a header's name such as X-Tenant")
    return name


def shares(value: object) -> dict[Priority, float]:
    """{low: 0.98} or low=0.98,medium=1"""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): share for name, _, share in pairs}
    wrong = ValueError("write a mapping of levels to shares above 0 and up to 1, such as {low: 0.98}")
    if not isinstance(value, dict):
        raise wrong
    try:
        found = {level(name): float(share) for name, share in value.items()}
    except (TypeError, ValueError):
        raise wrong from None
    if not all(0 < share <= 1 for share in found.values()):
        raise wrong
    return found


def share(value: object) -> float:
    try:
        found = -1.0 if isinstance(value, bool) else float(str(value))
    except ValueError:
        found = -1.0
    if not 0 <= found <= 1:
        raise ValueError("write a number from 0 to 1")
    return found


def http_address(value: object) -> str:
    """An address of a server of ours: nothing secret in it, since it is shown and logged."""
    url = text(value)
    if url and not (is_http(url) and _plain(url)):
        raise ValueError("write an address such as http://collector:4318, without a password")
    return url


def _plain(url: str) -> bool:
    parts = urlsplit(url)
    more = parts.username or parts.password or parts.query or parts.fragment
    return not more and url.isascii() and url.isprintable() and " " not in url


def is_http(url: str) -> bool:
    """Whether it is the address of a web server."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, a bracket that is not closed
        return False


def address(example: str, *schemes: str) -> Callable[[object], str]:
    def parse(value: object) -> str:
        url = text(value)
        if url and not _has_scheme(url, schemes):
            raise ValueError(f"write an address such as {example}")
        return url

    return parse


def _has_scheme(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        # Those with a plus name several servers, each with its port.
        return parts.scheme in schemes and ("+" in parts.scheme or parts.port != 0)
    except ValueError:
        return False
