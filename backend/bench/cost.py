"""CPU time of one grant and its settlement, in the process and in Redis, and a target's memory in Redis.

The clock is manual, so that a minute of ten requests takes no longer than one of ten thousand. Run in a process of its
own, patched as the gateway is: ``python -m bench.cost REDIS_PORT``; prints one JSON object.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402

import psutil  # noqa: E402
from redis import Redis  # noqa: E402

from knowalledge.core.context import Priority  # noqa: E402
from knowalledge.net.redis.multiplexed import MultiplexedClient  # noqa: E402
from knowalledge.quota.domain.queue import QueueRules  # noqa: E402
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window  # noqa: E402
from knowalledge.quota.memory import MemoryQuotaStore  # noqa: E402
from knowalledge.quota.ports import Granted, ReservationRequest  # noqa: E402
from knowalledge.quota.redis import RedisQuotaStore  # noqa: E402
from knowalledge.quota.replica import ReplicaQuotaStore  # noqa: E402

TARGET = "one"
WINDOWS = (
    Window("rpm", Count.REQUESTS, 10**6, 60),
    Window("tpm", Count.TOKENS, 10**9, 60),
    Window("rpd", Count.REQUESTS, 10**9, 86_400, zone="America/Los_Angeles"),
    Window("tpd", Count.TOKENS, 10**12, 86_400),
)


class ManualClock:
    """A clock that only the benchmark advances."""

    def __init__(self) -> None:
        self.seconds = 1_790_000_000.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


def measure(port: int, server: psutil.Process, per_minute: int, times: int) -> dict[str, float]:
    """Microseconds per grant and settlement at this rate."""
    with Redis(port=port) as redis:
        redis.flushall()
        clock = ManualClock()
        rules = QueueRules()
        client = MultiplexedClient(f"redis://127.0.0.1:{port}/0", 5.0, redis.pubsub)
        windows = {TARGET: WINDOWS}
        shared = RedisQuotaStore(
            client,
            windows,
            rules,
            clock,
            "bench",
            redis_now=lambda: str(int(clock.now() * SECOND)),
            auto_dispatch=False,
        )
        store = ReplicaQuotaStore(shared, MemoryQuotaStore(windows, rules, clock), windows, clock)

        def run(count: int) -> None:
            for index in range(count):
                clock.seconds += 60 / per_minute
                decision = store.reserve(
                    TARGET, ReservationRequest(f"{index}", TokenCost(300, 200), Priority.MEDIUM)
                )
                assert isinstance(decision, Granted), decision
                store.settle(decision.reservation, TokenCost(310, 150))
                store.stop()  # sends the settlement to Redis now, not in the background

        run(times // 5)
        before = server.cpu_times()
        started = time.process_time()
        run(times)
        process_s = time.process_time() - started
        after = server.cpu_times()
        redis_s = after.user + after.system - before.user - before.system
        size = sum(int(redis.memory_usage(key) or 0) for key in redis.scan_iter("kn:*"))
        client.close()
        return {"process_us": process_s / times * 1e6, "redis_us": redis_s / times * 1e6, "bytes": size}


def main(port: int) -> None:
    with Redis(port=port) as redis:
        server = psutil.Process(redis.info("server")["process_id"])
    # Interleaved, and the best of each rate: other load only adds time.
    rounds = [{rate: measure(port, server, rate, 2000) for rate in (10, 10_000)} for _ in range(5)]
    best = {
        rate: {name: min(it[rate][name] for it in rounds) for name in rounds[0][rate]} for rate in rounds[0]
    }
    print(json.dumps(best))


if __name__ == "__main__":
    main(int(sys.argv[1]))
