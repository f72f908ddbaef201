"""Response headers, as pure functions of what was decided."""

from functools import lru_cache

from knowalledge.domain.model import Allowance, Answer, CacheInfo

Headers = list[tuple[str, str]]


@lru_cache(1024)
def _string(text: str) -> str:
    """A String of RFC 9651: printable ASCII, quoted."""
    plain = text.encode("ascii", "replace").decode()
    plain = "".join(it if it.isprintable() else "?" for it in plain)
    return '"' + plain.replace("\\", "\\\\").replace('"', '\\"') + '"'


def rate_limit(allowances: tuple[Allowance, ...]) -> Headers:
    """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers, 10 and 11): one member a window.

    A quota counts requests unless it says otherwise. The draft's registry has no unit for tokens; leaving it out would
    make them requests.
    """
    if not allowances:
        return []
    policies, states = [], []
    for it in allowances:
        name = _string(it.name)
        unit = "" if it.unit == "requests" else f';qu="{it.unit.replace("_", "-")}"'
        policies.append(f"{name};q={it.limit}{unit};w={it.window_s}")
        states.append(f"{name};r={it.remaining};t={it.resets_s}")
    return [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]


def cache_status(info: CacheInfo) -> str:
    """Cache-Status (RFC 9211)."""
    name = f"knowalledge-{info.layer}" if info.layer else "knowalledge"
    if info.status == "hit":
        return f"{name}; hit"
    if info.status == "stale":
        return f"{name}; hit; detail=stale"
    if info.status == "shared":
        return f"{name}; fwd=miss; collapsed"
    return f"{name}; fwd={'bypass' if info.status == 'bypass' else 'miss'}"


def cached(info: CacheInfo) -> Headers:
    """What the caches did; and how old a stored answer is, in seconds."""
    status = ("Cache-Status", cache_status(info))
    return [status, ("Age", str(info.age_s))] if info.layer else [status]


def of_answer(answer: Answer) -> Headers:
    """All headers that an answer brings along."""
    return [
        ("X-Request-ID", answer.id),
        ("Cache-Control", "no-store"),
        *cached(answer.cache),
        *chosen(answer.target, answer.reason, answer.degraded),
        *rate_limit(answer.allowances),
    ]


def chosen(target: str, reason: str, degraded: bool) -> Headers:
    """Who answers and why, for dialects whose bodies have no place for it."""
    found = [("X-Target", f"{target}; reason={_string(reason)}" if reason else target)] if target else []
    return [*found, ("X-Degraded", "true")] if degraded else found
