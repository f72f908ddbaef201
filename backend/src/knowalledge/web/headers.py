"""Response headers, as pure functions of what was decided."""

from functools import lru_cache

from knowalledge.core.limits import Allowance

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
