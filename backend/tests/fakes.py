"""What several suites put in the place of the real: a clock that is moved by hand, telemetry that remembers."""

from typing import Any

from knowalledge.domain.caching import Stored
from knowalledge.domain.ports import Record


class Hands:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.time = 1_790_000_000.0

    def now(self) -> float:
        return self.time

    def monotonic(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.time += seconds


class Told:
    """Implements ``Telemetry`` and ``CacheTelemetry``."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.looks: list[tuple[str, str]] = []
        self.uncounted_targets: list[str] = []

    def request(self, record: Record) -> None:
        self.records.append(record)

    def upstream(self, *_: Any) -> None: ...

    def refused(self, *_: Any) -> None: ...

    def settled(self, *_: Any) -> None: ...

    def uncounted(self, target: str) -> None:
        self.uncounted_targets.append(target)

    def cached(self, layer: str, result: str, entry: Stored | None = None) -> None:
        self.looks.append((layer, result))
