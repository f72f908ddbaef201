"""What is popular in one process: counts that halve with time, and the rests of what failed."""

from collections.abc import Mapping

from knowalledge.core.clock import Clock
from knowalledge.topics.ports import Rest


class MemoryPopularity:
    """Implements ``Popularity``; holds at most ``most`` names, the most popular, and as many rests."""

    def __init__(self, clock: Clock, half_life_s: float, most: int) -> None:
        self._clock = clock
        self._half_life_s = half_life_s
        self._most = most
        self._counts: dict[str, float] = {}
        self._as_of = clock.monotonic()
        self._rests: dict[
            str, tuple[float, float, float]
        ] = {}  # its beginning, its length, when it is forgotten

    def count(self, asked: Mapping[str, float], least: float) -> tuple[str, ...]:
        now = self._clock.monotonic()
        left = 0.5 ** ((now - self._as_of) / self._half_life_s)
        self._as_of = now
        counts = {name: count * left for name, count in self._counts.items() if count * left >= 0.1}
        for name, count in asked.items():
            counts[name] = counts.get(name, 0.0) + count
        ordered = sorted(counts.items(), key=lambda it: -it[1])[: self._most]
        self._counts = dict(ordered)
        return tuple(name for name, count in ordered if count >= least - 1e-6)[:200]

    def rest(self, name: str, length_s: float, kept_s: float) -> None:
        now = self._clock.monotonic()
        self._rests[name] = (now, length_s, now + length_s + kept_s)
        if len(self._rests) > self._most:
            del self._rests[min(self._rests, key=lambda it: self._rests[it][2])]

    def rests(self) -> Mapping[str, Rest]:
        now = self._clock.monotonic()
        self._rests = {name: it for name, it in self._rests.items() if now < it[2]}
        return {name: Rest(length_s, now - began) for name, (began, length_s, _) in self._rests.items()}

    def forget(self, name: str) -> None:
        self._rests.pop(name, None)
