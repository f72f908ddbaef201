"""Popularity in one process."""

from collections.abc import Mapping

from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.topics.ports import Backoff

# Names returned by one count, and the decayed count below which a name is dropped.
MAX_POPULAR = 200
MIN_COUNT = 0.1


class _Backoff(Struct, frozen=True):
    """Moments of the monotonic clock, in seconds."""

    began: float
    length_s: float
    expires: float


class MemoryPopularity:
    """Implements ``Popularity``; holds at most ``max_names`` names, the most popular, and as many backoffs."""

    def __init__(self, clock: Clock, half_life_s: float, max_names: int) -> None:
        self._clock = clock
        self._half_life_s = half_life_s
        self._max_names = max_names
        self._counts: dict[str, float] = {}
        self._counted_at = clock.monotonic()
        self._backoffs: dict[str, _Backoff] = {}

    def count(self, requests: Mapping[str, float], threshold: float) -> tuple[str, ...]:
        now = self._clock.monotonic()
        decay = 0.5 ** ((now - self._counted_at) / self._half_life_s)
        self._counted_at = now
        counts = {name: count * decay for name, count in self._counts.items() if count * decay >= MIN_COUNT}
        for name, count in requests.items():
            counts[name] = counts.get(name, 0.0) + count
        ordered = sorted(counts.items(), key=lambda it: -it[1])[: self._max_names]
        self._counts = dict(ordered)
        return tuple(name for name, count in ordered if count >= threshold - 1e-6)[:MAX_POPULAR]

    def back_off(self, name: str, length_s: float, retention_s: float) -> None:
        now = self._clock.monotonic()
        self._backoffs[name] = _Backoff(now, length_s, now + length_s + retention_s)
        if len(self._backoffs) > self._max_names:
            del self._backoffs[min(self._backoffs, key=lambda it: self._backoffs[it].expires)]

    def backoffs(self) -> Mapping[str, Backoff]:
        now = self._clock.monotonic()
        self._backoffs = {name: it for name, it in self._backoffs.items() if now < it.expires}
        return {name: Backoff(it.length_s, now - it.began) for name, it in self._backoffs.items()}

    def forget(self, name: str) -> None:
        self._backoffs.pop(name, None)
