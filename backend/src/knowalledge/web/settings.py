"""Settings of the HTTP server."""

from dataclasses import dataclass

from knowalledge.core.parsers import duration, duration_or_zero, positive, size
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class ServerSettings:
    """``server.*``"""

    max_body: int = setting(size, 8 * 1024**2, "The largest request body.")
    heartbeat: float = setting(
        duration, 15.0, "A silent stream sends a comment this often, so that proxies keep it open."
    )
    drain: float = setting(duration_or_zero, 30.0, "After SIGTERM running requests have this long to finish.")
    keepalive: float = setting(
        duration,
        650.0,
        "An idle connection is kept this long; proxies in front must close theirs sooner (Google's balancer: 600 s).",
    )
    connections: int = setting(positive, 4000, "The most connections that one worker serves at a time.")
