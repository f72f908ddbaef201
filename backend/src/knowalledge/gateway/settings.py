"""Settings of requests to models."""

from dataclasses import dataclass

from knowalledge.core.parsers import duration
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class RequestSettings:
    """``request.*``"""

    timeout: float = setting(duration, 60.0, "The deadline of a request that names none.")
    max_timeout: float = setting(duration, 600.0, "The longest deadline that a request may name.")
