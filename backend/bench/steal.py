"""Rounds of a measurement that the host of this machine did not disturb.

A virtual machine's processors are at times given to other machines. What waits meanwhile waits for nothing of ours, and
a 99th percentile is made of such moments.
"""

from collections.abc import Callable
from typing import Generic, TypeVar

import psutil
from msgspec import Struct

# A round counts as undisturbed if no more of the processors' time than this was taken away ...
STOLEN = 0.03
# ... and is else taken again, up to so many for each that is wanted; then the least disturbed count.
TAKES = 4

T = TypeVar("T")


class Rounds(Struct, Generic[T], frozen=True):
    """What was found, and in how many rounds."""

    found: tuple[T, ...]
    taken: int
    stolen: float  # the most in a round that counts, as a share

    def __str__(self) -> str:
        return f"{len(self.found)} of {self.taken} rounds, at most {self.stolen:.1%} of the processors stolen"


def undisturbed(wanted: int, take: Callable[[int], T]) -> Rounds[T]:
    """``take`` is given the number of the round."""
    rounds: list[tuple[float, T]] = []
    while sum(share <= STOLEN for share, _ in rounds) < wanted and len(rounds) < TAKES * wanted:
        before = _spent()
        found = take(len(rounds))
        spent = {name: now - before[name] for name, now in _spent().items()}
        rounds.append((spent.get("steal", 0.0) / (sum(spent.values()) or 1.0), found))
    counted = sorted(rounds, key=lambda it: it[0])[:wanted]
    return Rounds(tuple(it for _, it in counted), len(rounds), counted[-1][0])


def _spent() -> dict[str, float]:
    """Seconds of the processors by what they were used for; a guest's are a part of a user's."""
    times: dict[str, float] = psutil.cpu_times()._asdict()
    return {name: seconds for name, seconds in times.items() if not name.startswith("guest")}
