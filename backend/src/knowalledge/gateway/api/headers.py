"""Headers of an answer, as pure functions of what was decided."""

from knowalledge.core.context import Priority
from knowalledge.gateway.domain.answer import Answer, CacheInfo
from knowalledge.gateway.domain.events import Started
from knowalledge.web.headers import Headers, quoted, rate_limit


def answer_headers(answer: Answer, priority: Priority) -> Headers:
    """All headers of a whole answer."""
    return [
        ("X-Request-ID", answer.id),
        ("Cache-Control", "no-store"),
        *cache_headers(answer.cache),
        *target_headers(answer.target, answer.reason, answer.degraded),
        *rate_limit(answer.allowances),
        ("X-Priority", priority.label),
    ]


def stream_headers(request_id: str, priority: Priority, started: Started | None) -> Headers:
    """All headers of a streamed answer. ``started`` is None while nothing is known of the answer."""
    headers = [
        ("X-Request-ID", request_id),
        ("Cache-Control", "no-store"),
        ("X-Accel-Buffering", "no"),
        ("X-Priority", priority.label),
    ]
    if started is not None:
        headers += cache_headers(started.cache)
        headers += target_headers(started.target, started.reason, started.degraded)
        headers += rate_limit(started.allowances)
    return headers


def cache_headers(info: CacheInfo) -> Headers:
    """Cache-Status, and for a stored answer its Age in seconds."""
    status = ("Cache-Status", cache_status(info))
    return [status, ("Age", str(info.age_s))] if info.layer else [status]


def cache_status(info: CacheInfo) -> str:
    """The value of Cache-Status (RFC 9211)."""
    name = f"knowalledge-{info.layer}" if info.layer else "knowalledge"
    if info.status == "hit":
        return f"{name}; hit"
    if info.status == "stale":
        return f"{name}; hit; detail=stale"
    if info.status == "shared":
        return f"{name}; fwd=miss; collapsed"
    return f"{name}; fwd={'bypass' if info.status == 'bypass' else 'miss'}"


def target_headers(target: str, reason: str, degraded: bool) -> Headers:
    """Which target answers and why; most dialects have no field for it in their bodies."""
    headers = [("X-Target", f"{target}; reason={quoted(reason)}" if reason else target)] if target else []
    return [*headers, ("X-Degraded", "true")] if degraded else headers
