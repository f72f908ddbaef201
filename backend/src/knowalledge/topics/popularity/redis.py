"""Popularity over all replicas. See ``scripts/cache_popular.lua`` and ``scripts/cache_rest.lua``."""

from collections.abc import Mapping
from functools import partial

from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.scripts import CommandExecutor, Script
from knowalledge.topics.ports import Backoff

_COUNT = Script.load("knowalledge.topics", "cache_popular")
_BACK_OFF = Script.load("knowalledge.topics", "cache_rest")


class RedisPopularity:
    """Implements ``Popularity`` over all replicas of one Redis; without Redis nothing is popular."""

    def __init__(
        self,
        client: CommandExecutor,
        breaker: RedisBreaker,
        half_life_s: float,
        max_names: int,
        prefix: str = "",
    ) -> None:
        """``prefix``: of every key."""
        keys = f"{prefix}kn:{{cache}}:".encode()
        self._counts, self._backoffs = keys + b"popular", keys + b"rests"
        self._client, self._breaker = client, breaker
        self._half_life_s, self._max_names = half_life_s, max_names

    def count(self, requests: Mapping[str, float], threshold: float) -> tuple[str, ...]:
        pairs = [part for pair in requests.items() for part in pair]
        args = (self._half_life_s, threshold, self._max_names, *pairs)
        names = self._breaker.run(partial(_COUNT, self._client, (self._counts,), *args), None)
        return tuple(it.decode(errors="replace") for it in names or ())

    def back_off(self, name: str, length_s: float, retention_s: float) -> None:
        args = name, round(length_s * 1000), round(retention_s * 1000), self._max_names
        self._breaker.run(partial(_BACK_OFF, self._client, (self._backoffs,), *args), None)

    def backoffs(self) -> Mapping[str, Backoff]:
        reply = self._breaker.run(partial(_BACK_OFF, self._client, (self._backoffs,)), None) or ()
        return {
            name.decode(errors="replace"): Backoff(length / 1000, age / 1000)
            for name, length, age in zip(reply[::3], reply[1::3], reply[2::3], strict=True)
        }

    def forget(self, name: str) -> None:
        self._breaker.run(partial(self._client.execute_command, "HDEL", self._backoffs, name), None)
