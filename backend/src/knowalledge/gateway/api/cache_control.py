"""What a request's Cache-Control asks of our caches (RFC 9111, section 5.2.1)."""

import re

from knowalledge.gateway.domain.request import CacheMode

_SECONDS = re.compile(r"\d{1,6}(?:\.\d{1,3})?")


def cache_mode(field: str | None) -> CacheMode | None:
    """How the caches may be used; None if the field does not say."""
    if field is None:
        return None
    directives = _directives(field)
    if "only-if-cached" in directives:
        return CacheMode.ONLY
    if "no-cache" in directives or "no-store" in directives or max_age(field) == 0:
        return CacheMode.BYPASS
    # A caller that bounds the age or the staleness of an answer accepts a stored one.
    return CacheMode.DEFAULT if "max-age" in directives or "max-stale" in directives else None


def max_age(field: str | None) -> float | None:
    """The greatest age of a stored answer in seconds; None if the field gives no valid one."""
    seconds = _directives(field).get("max-age", "") if field else ""
    return float(seconds) if _SECONDS.fullmatch(seconds) else None


def _directives(field: str) -> dict[str, str]:
    parts = (it.strip().partition("=") for it in field.split(","))
    return {name.lower(): value for name, _, value in parts}
