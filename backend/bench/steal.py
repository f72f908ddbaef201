"""Repeats rounds of a measurement in which the host gave this machine's processors to other machines (steal time).

Latencies in such a round say nothing about the software, and they dominate a 99th percentile.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import psutil
from msgspec import Struct

# A round is disturbed if more than this share of the processors' time was stolen.
MAX_STOLEN = 0.03
# At most so many rounds are measured per round required; if too many are disturbed, those with the least steal count.
MAX_ATTEMPTS = 4

T = TypeVar("T")


class Rounds(Struct, Generic[T], frozen=True):
    """The results of the rounds that count."""

    results: tuple[T, ...]
    measured: int  # rounds in all
    stolen: float  # the largest share of stolen time in a round that counts

    def __str__(self) -> str:
        return f"{len(self.results)} of {self.measured} rounds, at most {self.stolen:.1%} of the processors stolen"


def undisturbed(required: int, measure: Callable[[int], T]) -> Rounds[T]:
    """Call ``measure`` with the number of the round until enough rounds are undisturbed."""
    rounds: list[tuple[float, T]] = []
    while (
        sum(share <= MAX_STOLEN for share, _ in rounds) < required and len(rounds) < MAX_ATTEMPTS * required
    ):
        before = _cpu_seconds()
        result = measure(len(rounds))
        spent = {name: now - before[name] for name, now in _cpu_seconds().items()}
        rounds.append((spent.get("steal", 0.0) / (sum(spent.values()) or 1.0), result))
    counted = sorted(rounds, key=lambda it: it[0])[:required]
    return Rounds(tuple(result for _, result in counted), len(rounds), counted[-1][0])


def _cpu_seconds() -> dict[str, float]:
    """Seconds of all processors by use. Guest time is left out: user time includes it."""
    times: dict[str, float] = psutil.cpu_times()._asdict()
    return {name: seconds for name, seconds in times.items() if not name.startswith("guest")}
