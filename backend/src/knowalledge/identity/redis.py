"""Implements ``SharedCounts`` over the Redis that replicas share. See ``scripts/limits.lua``."""

from functools import partial

from knowalledge.identity.domain.rates import ClientCount
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.scripts import CommandExecutor, Script

_LIMITS = Script.load("knowalledge.identity", "limits")


class RedisCounts:
    """Implements ``SharedCounts``. All keys of a client carry its hash tag."""

    def __init__(self, client: CommandExecutor, breaker: RedisBreaker) -> None:
        self._client, self._breaker = client, breaker

    def place(self, name: str, count: ClientCount, now: float) -> bool | None:
        return self._call(name, count, now, 1)

    def report(self, name: str, count: ClientCount, now: float) -> None:
        self._call(name, count, now, 0)

    def _call(self, name: str, count: ClientCount, now: float, wanted: int) -> bool | None:
        weights = count.weights(now)
        sent = count.take()
        keys: list[bytes] = []
        args: list[float] = [wanted]
        for window, weight, own in zip(count.windows, weights, sent.counts, strict=True):
            rate = window.rate
            prefix = f"kn:limits:{{{name}}}:{rate.window_s}:"
            keys += (f"{prefix}{window.index}".encode(), f"{prefix}{window.index - 1}".encode())
            args += (rate.limit, 2 * rate.window_s + 1, own, weight)
        reply: list[int] | None = self._breaker.run(partial(_LIMITS, self._client, tuple(keys), *args), None)
        if reply is None:
            count.give_back(sent)
            return None
        count.learn(sent, tuple(reply[1:]))
        return reply[0] == 1
