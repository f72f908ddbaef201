"""The load generator, a process of its own: one JSON order a line in, one JSON result a line out.

An order: {port, path | paths, body | bodies, headers, method, mode, seconds, ...} with mode
    closed    ``concurrency`` requests in flight all the time
    open      ``rate`` a second, at random moments, however slow the answers are
    burst     ``count`` requests started evenly over ``ramp_s``
and ``token``: what marks one token in a stream.
"""

import asyncio
import json
import sys
from collections import Counter
from itertools import cycle
from random import Random
from time import perf_counter
from typing import Any

import uvloop

from bench.wire import Exchange, Pool, request

# Seconds that answers may take after the last request was started.
PATIENCE_S = 60.0


def quantile(values: list[float], share: float) -> float:
    """By nearest rank; 0 of nothing."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Load:
    """One order being carried out."""

    def __init__(self, order: dict[str, Any], pool: Pool) -> None:
        self._order, self._pool = order, pool
        host = f"{pool.host}:{pool.port}"
        bodies = order.get("bodies") or [order.get("body", "")]
        self._raws = cycle(
            [
                request(path, host, body.encode(), order.get("headers", {}), order.get("method", "POST"))
                for path in order.get("paths") or [order["path"]]
                for body in bodies
            ]
        )
        self._token = order.get("token", "").encode()
        self._done: list[Exchange] = []
        self._flying = 0
        self._stop = False
        self._idle = asyncio.Event()

    def _start(self) -> None:
        self._flying += 1
        self._pool.send(next(self._raws), Exchange(self._ended, self._token))

    def _ended(self, exchange: Exchange) -> None:
        self._done.append(exchange)
        self._flying -= 1
        if self._order["mode"] == "closed" and not self._stop:
            self._start()
        elif not self._flying:
            self._idle.set()

    async def run(self) -> dict[str, Any]:
        order = self._order
        began = perf_counter()
        if order["mode"] == "closed":
            for _ in range(order["concurrency"]):
                self._start()
            await asyncio.sleep(order["seconds"])
        else:
            await self._paced(began)
        self._stop = True
        ended = perf_counter()
        if self._flying:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), PATIENCE_S)
            except TimeoutError:
                pass
        return self._told(ended - began)

    async def _paced(self, began: float) -> None:
        order = self._order
        if order["mode"] == "burst":
            count = order["count"]
            moments = [order.get("ramp_s", 0.0) * index / count for index in range(count)]
        else:
            dice, at, moments = Random(order.get("seed", 0)), 0.0, []
            while (at := at + dice.expovariate(order["rate"])) < order["seconds"]:
                moments.append(at)
        for moment in moments:
            pause = began + moment - perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            self._start()

    def _told(self, seconds: float) -> dict[str, Any]:
        done = self._done
        good = [it for it in done if it.status == 200]
        times = [it.seconds * 1000 for it in good]
        firsts = [(it.tokens[0] - it.sent) * 1000 for it in good if it.tokens]
        gaps = [
            (after - before) * 1000
            for it in good
            for before, after in zip(it.tokens, it.tokens[1:], strict=False)
        ]
        return {
            "count": len(done),
            "unanswered": self._flying,
            "statuses": dict(Counter(str(it.status) for it in done)),
            "seconds": seconds,
            "rate": len(good) / seconds,
            "p50_ms": quantile(times, 0.5),
            "p99_ms": quantile(times, 0.99),
            "max_ms": max(times, default=0.0),
            "first_p50_ms": quantile(firsts, 0.5),
            "first_p99_ms": quantile(firsts, 0.99),
            "gap_p50_ms": quantile(gaps, 0.5),
            "gap_p99_ms": quantile(gaps, 0.99),
            "tokens": dict(Counter(str(len(it.tokens)) for it in good)) if self._token else {},
            "sample": next((it.body[:300].decode(errors="replace") for it in done if it.status != 200), ""),
        }


async def main() -> None:
    loop = asyncio.get_running_loop()
    pools: dict[int, Pool] = {}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        order = json.loads(line)
        port = order["port"]
        pool = pools.get(port) or pools.setdefault(port, Pool("127.0.0.1", port))
        await pool.warm(order.get("warm", 0))
        print(json.dumps(await Load(order, pool).run()), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
