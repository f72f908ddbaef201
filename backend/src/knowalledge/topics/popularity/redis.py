"""What is popular over all replicas, and what of it rests. See ``scripts/cache_popular.lua`` and ``cache_rest.lua``."""

from collections.abc import Mapping

from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.scripts import CommandExecutor, Script
from knowalledge.topics.ports import Rest

_POPULAR, _REST = Script("knowalledge.topics", "cache_popular"), Script("knowalledge.topics", "cache_rest")
_KEY, _RESTS = b"kn:{cache}:popular", b"kn:{cache}:rests"


class RedisPopularity:
    """Implements ``Popularity`` for every replica that names the same Redis."""

    def __init__(self, client: CommandExecutor, outage: RedisBreaker, half_life_s: float, most: int) -> None:
        self._client, self._outage = client, outage
        self._args = half_life_s, most

    def count(self, asked: Mapping[str, float], least: float) -> tuple[str, ...]:
        half_life_s, most = self._args
        flat = [part for pair in asked.items() for part in pair]
        found = self._outage.run(
            lambda: _POPULAR(self._client, (_KEY,), half_life_s, least, most, *flat), None
        )
        return tuple(it.decode(errors="replace") for it in found or ())

    def rest(self, name: str, length_s: float, kept_s: float) -> None:
        args = name, round(length_s * 1000), round(kept_s * 1000), self._args[1]
        self._outage.run(lambda: _REST(self._client, (_RESTS,), *args), None)

    def rests(self) -> Mapping[str, Rest]:
        found = self._outage.run(lambda: _REST(self._client, (_RESTS,)), None) or ()
        return {
            name.decode(errors="replace"): Rest(length / 1000, age / 1000)
            for name, length, age in zip(found[::3], found[1::3], found[2::3], strict=True)
        }

    def forget(self, name: str) -> None:
        self._outage.run(lambda: self._client.execute_command("HDEL", _RESTS, name), None)
