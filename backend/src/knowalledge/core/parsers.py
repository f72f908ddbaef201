"""Parsers of settings: text or a YAML value in, the value out. Each raises ValueError, whose message is the cure.

``written`` is the way back: a value as a person writes it in YAML.
"""

import json
import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from urllib.parse import urlsplit

from knowalledge.core.context import Priority

DAY = 86_400

_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)?")
_SECONDS = {"ms": 0.001, None: 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_SIZE = re.compile(r"(\d+)\s*([KMG]i?B?|B)?", re.I)
# The largest unit of which a value is a whole number is the one that people write.
_LENGTHS = (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1))
_SIZES = (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024))
# Text that YAML reads as that text, within brackets too; and words that it reads as something else.
_PLAIN = re.compile(r"[A-Za-z/][A-Za-z0-9_./+@-]*(://[A-Za-z0-9_./:@*-]*[A-Za-z0-9_/*-])?")
_NOT_TEXT = ("true", "false", "yes", "no", "on", "off", "null", "y", "n")
_BOOLEANS = {"true": True, "false": False, "1": True, "0": False, "yes": True, "no": False}


class NotValid(ValueError):
    """A value cannot be read. The message is the cure; ``example`` is a value in YAML that can be."""

    def __init__(self, cure: str, example: str) -> None:
        super().__init__(cure)
        self.example = example


def duration_or_zero(value: object) -> float:
    """Seconds, up to a year; a bare number is seconds."""
    match = _DURATION.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if not match:
        raise ValueError("write a duration such as 500ms, 30s, 5m, 1h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > 366 * DAY:
        raise ValueError("write a duration of at most a year")
    return seconds


def duration(value: object) -> float:
    """Seconds, above 0 and up to a year."""
    seconds = duration_or_zero(value)
    if not seconds:
        raise ValueError("write a duration above 0 such as 500ms, 30s, 5m, 1h")
    return seconds


def size_or_zero(value: object) -> int:
    """Bytes; K, M and G are powers of 1024."""
    match = _SIZE.fullmatch(str(value).strip()) if not isinstance(value, bool) else None
    if not match:
        raise ValueError("write a size such as 512KiB or 64MiB")
    power = {"": 0, "B": 0, "K": 1, "M": 2, "G": 3}[(match[2] or "").upper()[:1]]
    return int(match[1]) * int(1024**power)


def size(value: object) -> int:
    """Bytes, above 0."""
    number = size_or_zero(value)
    if not number:
        raise ValueError("write a size above 0 such as 512KiB or 64MiB")
    return number


def positive(value: object) -> int:
    """A whole number from 1 to 10**15 - 1."""
    if isinstance(value, bool) or not str(value).strip().isdecimal() or not 0 < int(str(value)) < 10**15:
        raise ValueError("write a whole number above 0")
    return int(str(value))


def non_negative(value: object) -> int:
    """A whole number from 0 to 10**9."""
    if isinstance(value, bool) or not str(value).strip().isdecimal() or int(str(value)) > 10**9:
        raise ValueError("write a whole number, 0 or above")
    return int(str(value))


def fraction(value: object) -> float:
    """A number from 0 to 1."""
    try:
        number = -1.0 if isinstance(value, bool) else float(str(value))
    except ValueError:
        number = -1.0
    if not 0 <= number <= 1:
        raise ValueError("write a number from 0 to 1")
    return number


def fractions(value: object) -> dict[Priority, float]:
    """A fraction above 0 by priority: a mapping such as ``{low: 0.98}``, or text such as ``low=0.98,medium=1``."""
    if isinstance(value, str):
        pairs = [pair.partition("=") for pair in value.split(",") if pair.strip()]
        value = {name.strip(): number for name, _, number in pairs}
    wrong = ValueError("write a mapping of levels to shares above 0 and up to 1, such as {low: 0.98}")
    if not isinstance(value, dict):
        raise wrong
    try:
        by_level = {level(name): float(number) for name, number in value.items()}
    except (TypeError, ValueError):
        raise wrong from None
    if not all(0 < number <= 1 for number in by_level.values()):
        raise wrong
    return by_level


def boolean(value: object) -> bool:
    """true, yes or 1; false, no or 0."""
    flag = _BOOLEANS.get(str(value).lower())
    if flag is None:
        raise ValueError("write true or false")
    return flag


def text(value: object) -> str:
    """Text; a YAML number is read as text."""
    if not isinstance(value, str | int | float) or isinstance(value, bool):
        raise ValueError("write a text")
    return str(value)


def one_of(*names: str) -> Callable[[object], str]:
    """A parser of one name of a closed set."""

    def parse(value: object) -> str:
        if value not in names:
            near = get_close_matches(str(value)[:100], names, n=1)
            raise NotValid(f"choose one of {', '.join(names)}", near[0] if near else "")
        return str(value)

    return parse


def level(value: object) -> Priority:
    """A priority by its name."""
    try:
        return Priority[str(value).upper()]
    except KeyError:
        raise ValueError("choose one of critical, high, medium, low") from None


def request_rate(value: object) -> str:
    """Requests per second, minute, hour or day, such as ``600/minute``; empty: no limit."""
    written = text(value).strip()
    if written and not re.fullmatch(r"[1-9]\d{0,8}/(second|minute|hour|day)", written):
        raise NotValid("write a rate such as 600/minute", "600/minute")
    return written


def request_rates(value: object) -> str:
    """Several of them with semicolons between, such as ``20/minute;500/day``; empty: no limit."""
    return ";".join(filter(None, (request_rate(it) for it in text(value).split(";"))))


def header_name(value: object) -> str:
    """The name of an HTTP header, or empty."""
    name = text(value)
    if name and not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,63}", name):
        raise NotValid("write a header's name such as X-Tenant", "X-Tenant")
    return name


def http_address(value: object) -> str:
    """The address of a service of ours, without credentials, because it is shown and logged; or empty."""
    url = text(value)
    if url and not (is_http(url) and _is_plain(url)):
        cure = "write an address such as http://collector:4318, without a password"
        raise NotValid(cure, "http://collector:4318")
    return url


def _is_plain(url: str) -> bool:
    parts = urlsplit(url)
    more = parts.username or parts.password or parts.query or parts.fragment
    return not more and url.isascii() and url.isprintable() and " " not in url


def is_http(url: str) -> bool:
    """Whether a text is the address of a web server."""
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False


def address(example: str, *schemes: str) -> Callable[[object], str]:
    """A parser of an address with one of these schemes, or empty."""

    def parse(value: object) -> str:
        url = text(value)
        if url and not _has_scheme(url, schemes):
            raise NotValid(f"write an address such as {example}", example.partition(",")[0])
        return url

    return parse


def _has_scheme(url: str, schemes: tuple[str, ...]) -> bool:
    try:
        parts = urlsplit(url)
        # A scheme with a plus names several servers, each with its port.
        return parts.scheme in schemes and ("+" in parts.scheme or parts.port != 0)
    except ValueError:
        return False


def written(parse: Callable[[object], object], value: object) -> str:
    """A value of a setting as YAML, in the units that people use: ``30s``, ``64MiB``, ``{low: 0.998}``.

    ``parse`` is the setting's parser; it reads the text back as the value.
    """
    if parse in (duration, duration_or_zero):
        milliseconds = float(str(value)) * 1000
        return _in_units(int(milliseconds), _LENGTHS, "s") if milliseconds.is_integer() else str(value)
    if parse in (size, size_or_zero):
        return _in_units(int(str(value)), _SIZES, "B")
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{key.label}: {number}" for key, number in value.items()) + "}"
    if isinstance(value, tuple):
        return f"[{', '.join(written(text, it) for it in value)}]"
    if isinstance(value, Priority):
        return value.label
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return value if _PLAIN.fullmatch(value) and value.lower() not in _NOT_TEXT else json.dumps(value)
    return str(value)


def _in_units(number: int, units: tuple[tuple[str, int], ...], smallest: str) -> str:
    for unit, worth in units:
        if number and number % worth == 0:
            return f"{number // worth}{unit}"
    return f"{number}{smallest}"
