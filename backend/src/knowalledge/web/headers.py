"""Response headers, as pure functions of what was decided."""

from knowalledge.domain.model import Allowance, Answer, CacheInfo


def rate_limit(allowances: tuple[Allowance, ...]) -> list[tuple[str, str]]:
    """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers): one member a window."""
    if not allowances:
        return []
    policy = ", ".join(f'"{it.name}";q={it.limit};w={it.window_s}' for it in allowances)
    state = ", ".join(f'"{it.name}";r={it.remaining};t={it.resets_s}' for it in allowances)
    return [("RateLimit-Policy", policy), ("RateLimit", state)]


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


def of_answer(answer: Answer) -> list[tuple[str, str]]:
    """All headers that an answer brings along."""
    return [
        ("X-Request-ID", answer.id),
        ("Cache-Control", "no-store"),
        ("Cache-Status", cache_status(answer.cache)),
        *rate_limit(answer.allowances),
    ]
