"""Metrics as a capability declares and counts them, whatever stores and renders them.

A capability has one table of ``Metric`` rows in its ``telemetry.py``, beside the class that fills them. The values of a
label are a closed set or come from the configuration (models, targets, priorities, outcomes), never from what a caller
sent: so the number of series is bounded.
"""

from typing import Literal, Protocol

from msgspec import Struct


class Metric(Struct, frozen=True):
    """One metric. ``name`` and ``labels`` are public; ``description`` is the sentence of the reference."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    labels: tuple[str, ...]
    description: str
    # Of a gauge that every worker sets: whether their values are added up, or the most recent one counts.
    sum_over_workers: bool = False


class Series(Protocol):
    """One metric with the values of its labels."""

    def inc(self, amount: float = 1) -> None: ...

    def set(self, value: float) -> None: ...

    def observe(self, amount: float) -> None: ...


class Family(Protocol):
    """The series of one metric."""

    def __getitem__(self, labels: str | tuple[str, ...]) -> Series:
        """The series with these values of the labels, in their order; one label's value may be given alone."""
        ...


class Metrics(Protocol):
    """Where metrics are kept."""

    def family(self, metric: Metric) -> Family:
        """Register a metric, once."""
        ...

    def totals(self, metric: Metric) -> dict[tuple[str, ...], float]:
        """The values of a counter or gauge by the values of its labels, over all workers of this process' server."""
        ...
