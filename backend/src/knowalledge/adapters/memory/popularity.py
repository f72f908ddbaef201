"""What is popular in one process: counts that halve with time."""

from collections.abc import Mapping

from knowalledge.domain.ports import Clock


class MemoryPopularity:
    """Implements ``Popularity``; holds at most ``most`` names, the most popular."""

    def __init__(self, clock: Clock, half_life_s: float, most: int) -> None:
        self._clock = clock
        self._half_life_s = half_life_s
        self._most = most
        self._counts: dict[str, float] = {}
        self._as_of = clock.monotonic()

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
