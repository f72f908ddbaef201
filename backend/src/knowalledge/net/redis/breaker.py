"""A circuit breaker for Redis: an outage costs one caller one timeout, and the others nothing until the next probe."""

from collections.abc import Callable
from typing import TypeVar

from knowalledge.core.clock import Clock
from knowalledge.net.redis.errors import REDIS_ERRORS, is_outage

T = TypeVar("T")


class RedisBreaker:
    """Calls Redis; during an outage returns fallbacks at once, and lets one call per interval probe for its end."""

    def __init__(self, clock: Clock, probe_interval_s: float = 1.0) -> None:
        self._clock = clock
        self._probe_interval_s = probe_interval_s
        self._open_until = 0.0
        self.up = True

    def run(self, call: Callable[[], T], fallback: T) -> T:
        """The result of ``call``, or ``fallback`` if Redis does not execute the command.

        A command that is rejected for itself does not open the breaker.
        """
        if not self.up:
            now = self._clock.monotonic()
            if now < self._open_until:
                return fallback
            self._open_until = now + self._probe_interval_s  # other callers do not wait for this probe
        try:
            result = call()
        except REDIS_ERRORS as error:
            if is_outage(error):
                self.up = False
                self._open_until = self._clock.monotonic() + self._probe_interval_s
            return fallback
        self.up = True
        return result
