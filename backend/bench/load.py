"""The load generator, a process of its own: reads one JSON job per line, writes one JSON result per line.

A job is {port, path | paths, body | bodies, headers, method, mode, seconds, ...}. ``token`` marks one token in a
stream. ``mode`` is one of
    closed    ``concurrency`` requests in flight all the time
    open      ``rate`` requests per second at random times (Poisson), however slow the responses are
    burst     ``count`` requests started evenly over ``ramp_s`` seconds
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

# Seconds to wait for responses after the last request has started.
PATIENCE_S = 60.0


def quantile(values: list[float], share: float) -> float:
    """A quantile by nearest rank; 0 for an empty list."""
    if not values:
        return 0.0
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


class Load:
    """Runs one job."""

    def __init__(self, job: dict[str, Any], pool: Pool) -> None:
        self._job, self._pool = job, pool
        host = f"{pool.host}:{pool.port}"
        bodies = job.get("bodies") or [job.get("body", "")]
        self._requests = cycle(
            [
                request(path, host, body.encode(), job.get("headers", {}), job.get("method", "POST"))
                for path in job.get("paths") or [job["path"]]
                for body in bodies
            ]
        )
        self._token = job.get("token", "").encode()
        self._exchanges: list[Exchange] = []
        self._in_flight = 0
        self._stop = False
        self._idle = asyncio.Event()

    def _start(self) -> None:
        self._in_flight += 1
        self._pool.send(next(self._requests), Exchange(self._on_end, self._token))

    def _on_end(self, exchange: Exchange) -> None:
        self._exchanges.append(exchange)
        self._in_flight -= 1
        if self._job["mode"] == "closed" and not self._stop:
            self._start()
        elif not self._in_flight:
            self._idle.set()

    async def run(self) -> dict[str, Any]:
        job = self._job
        started = perf_counter()
        if job["mode"] == "closed":
            for _ in range(job["concurrency"]):
                self._start()
            await asyncio.sleep(job["seconds"])
        else:
            await self._start_on_schedule(started)
        self._stop = True
        ended = perf_counter()
        if self._in_flight:
            self._idle.clear()
            try:
                await asyncio.wait_for(self._idle.wait(), PATIENCE_S)
            except TimeoutError:
                pass
        return self._summary(ended - started)

    async def _start_on_schedule(self, started: float) -> None:
        job = self._job
        if job["mode"] == "burst":
            count = job["count"]
            times = [job.get("ramp_s", 0.0) * index / count for index in range(count)]
        else:
            rng, at, times = Random(job.get("seed", 0)), 0.0, []
            while (at := at + rng.expovariate(job["rate"])) < job["seconds"]:
                times.append(at)
        for at in times:
            pause = started + at - perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            self._start()

    def _summary(self, seconds: float) -> dict[str, Any]:
        exchanges = self._exchanges
        good = [it for it in exchanges if it.status == 200]
        latencies = [it.seconds * 1000 for it in good]
        firsts = [(it.tokens[0] - it.sent) * 1000 for it in good if it.tokens]
        gaps = [
            (after - before) * 1000
            for it in good
            for before, after in zip(it.tokens, it.tokens[1:], strict=False)
        ]
        return {
            "count": len(exchanges),
            "unanswered": self._in_flight,
            "statuses": dict(Counter(str(it.status) for it in exchanges)),
            "seconds": seconds,
            "rate": len(good) / seconds,
            "p50_ms": quantile(latencies, 0.5),
            "p99_ms": quantile(latencies, 0.99),
            "max_ms": max(latencies, default=0.0),
            "first_p50_ms": quantile(firsts, 0.5),
            "first_p99_ms": quantile(firsts, 0.99),
            "gap_p50_ms": quantile(gaps, 0.5),
            "gap_p99_ms": quantile(gaps, 0.99),
            "tokens": dict(Counter(str(len(it.tokens)) for it in good)) if self._token else {},
            "sample": next(
                (it.body[:300].decode(errors="replace") for it in exchanges if it.status != 200), ""
            ),
        }


async def main() -> None:
    loop = asyncio.get_running_loop()
    pools: dict[int, Pool] = {}
    while line := await loop.run_in_executor(None, sys.stdin.readline):
        job = json.loads(line)
        port = job["port"]
        pool = pools.get(port) or pools.setdefault(port, Pool("127.0.0.1", port))
        await pool.warm(job.get("warm", 0))
        print(json.dumps(await Load(job, pool).run()), flush=True)


if __name__ == "__main__":
    uvloop.run(main())
