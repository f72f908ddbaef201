"""What is popular over all replicas. See ``scripts/cache_popular.lua``."""

from collections.abc import Mapping

from knowalledge.adapters.redis.outage import Outage
from knowalledge.adapters.redis.script import Executes, Script

_POPULAR = Script("cache_popular")
_KEY = b"kn:{cache}:popular"


class RedisPopularity:
    """Implements ``Popularity`` for every replica that names the same Redis."""

    def __init__(self, client: Executes, outage: Outage, half_life_s: float, most: int) -> None:
        self._client, self._outage = client, outage
        self._args = half_life_s, most

    def count(self, asked: Mapping[str, float], least: float) -> tuple[str, ...]:
        half_life_s, most = self._args
        flat = [part for pair in asked.items() for part in pair]
        found = self._outage.run(
            lambda: _POPULAR(self._client, (_KEY,), half_life_s, least, most, *flat), None
        )
        return tuple(it.decode(errors="replace") for it in found or ())
