"""Headers of an answer, as pure functions of what was decided."""

from knowalledge.gateway.domain.answer import Answer, CacheInfo
from knowalledge.web.headers import Headers, quoted, rate_limit


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
    found = [("X-Target", f"{target}; reason={quoted(reason)}" if reason else target)] if target else []
    return [*found, ("X-Degraded", "true")] if degraded else found
