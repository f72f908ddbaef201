"""Settings of the HTTP server."""

from dataclasses import dataclass

from knowalledge.core.parsers import duration, duration_or_zero, positive, size
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class ServerSettings:
    """``server.*``"""

    max_body: int = setting(size, 8 * 1024**2, "The largest request body.")
    heartbeat: float = setting(
        duration, 15.0, "A silent stream gets a comment this often: proxies keep it open."
    )
    drain: float = setting(
        duration_or_zero, 30.0, "Running streams may take this long to finish after SIGTERM."
    )
    connections: int = setting(positive, 4000, "Concurrent connections of one worker.")
