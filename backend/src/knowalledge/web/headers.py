"""Response headers, as pure functions of what was decided."""

from functools import lru_cache

from knowalledge.core.limits import Allowance

Headers = list[tuple[str, str]]


@lru_cache(1024)
def quoted(text: str) -> str:
    """A String of a structured field (RFC 9651): printable ASCII in quotes, with ``?`` for all else."""
    ascii_text = text.encode("ascii", "replace").decode()
    printable = "".join(it if it.isprintable() else "?" for it in ascii_text)
    return '"' + printable.replace("\\", "\\\\").replace('"', '\\"') + '"'


def rate_limit(allowances: tuple[Allowance, ...]) -> Headers:
    """RateLimit-Policy and RateLimit (draft-ietf-httpapi-ratelimit-headers, 10 and 11): one member a window.

    Without a unit a quota counts requests. The draft registers no unit for tokens, so ours (``qu="input-tokens"``) is
    given: without it a client would take them for requests.
    """
    if not allowances:
        return []
    policies, states = [], []
    for it in allowances:
        name = quoted(it.name)
        unit = "" if it.unit == "requests" else f';qu="{it.unit.replace("_", "-")}"'
        policies.append(f"{name};q={it.limit}{unit};w={it.window_s}")
        states.append(f"{name};r={it.remaining};t={it.resets_s}")
    return [("RateLimit-Policy", ", ".join(policies)), ("RateLimit", ", ".join(states))]
