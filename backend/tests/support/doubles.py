"""Test doubles of several suites: a manual clock, recording telemetry, a Redis whose connection can be cut."""

from collections.abc import Callable
from typing import Any

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from knowalledge.caching.domain import CacheEntry
from knowalledge.gateway.ports import Record
from knowalledge.net.redis.probe import PROBE_KEY


class ManualClock:
    """A clock that only the test advances."""

    def __init__(self) -> None:
        self.time = 1_790_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class RecordingTelemetry:
    """Implements ``Telemetry`` and ``CacheTelemetry``."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.lookups: list[tuple[str, str]] = []
        self.uncounted_targets: list[str] = []

    def record_request(self, record: Record) -> None:
        self.records.append(record)

    def record_attempt(self, *_: Any) -> None: ...

    def record_refusal(self, *_: Any) -> None: ...

    def record_settlement(self, *_: Any) -> None: ...

    def record_uncounted(self, target: str) -> None:
        self.uncounted_targets.append(target)

    def cached(self, layer: str, result: str, entry: CacheEntry | None = None) -> None:
        self.lookups.append((layer, result))


class CuttableRedis:
    """Redis with a connection that can be cut. ``meanwhile`` is called once, before the next script (no probe) runs."""

    def __init__(self, redis: Redis) -> None:
        self._redis: Any = redis  # its stubs leave execute_command and pubsub untyped
        self.cut = False
        self.meanwhile: Callable[[], None] | None = None

    def execute_command(self, *args: Any) -> Any:
        if self.cut:
            raise RedisConnectionError("cut")
        if self.meanwhile is not None and args[0] == "EVALSHA" and args[3] != PROBE_KEY:
            action, self.meanwhile = self.meanwhile, None
            action()
        return self._redis.execute_command(*args)

    def pubsub(self, **options: Any) -> Any:
        return self._redis.pubsub(**options)
