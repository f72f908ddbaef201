"""A Redis that is gone or frozen costs one caller one timeout, then nobody anything until the next try."""

from collections.abc import Callable
from typing import TypeVar

from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeoutError

from knowalledge.core.clock import Clock

T = TypeVar("T")


class RedisBreaker:
    """Runs calls to Redis; while it is away they are answered by their fallback, and one caller a second tries."""

    def __init__(self, clock: Clock, rest_s: float = 1.0) -> None:
        self._clock = clock
        self._rest_s = rest_s
        self._until = 0.0
        self.up = True

    def run(self, call: Callable[[], T], fallback: T) -> T:
        """The call's result, or ``fallback``. A command that Redis refuses is no outage, but has no result either."""
        if not self.up:
            now = self._clock.monotonic()
            if now < self._until:
                return fallback
            self._until = now + self._rest_s  # whoever comes meanwhile need not wait for this try
        try:
            found = call()
        except (RedisConnectionError, RedisTimeoutError, OSError):
            self.up = False
            self._until = self._clock.monotonic() + self._rest_s
            return fallback
        except RedisError:
            return fallback
        self.up = True
        return found
