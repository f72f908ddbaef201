"""Two tenants at three replicas' stores over one Redis, one asking ten times as often: who is served how much.

In real time and in a process of its own, patched as the gateway is: ``python -m bench.tenants REDIS_PORT SECONDS``;
prints one JSON object. It asks the stores, not the gateways, because it needs callers of many names.
"""

from gevent import monkey

monkey.patch_all()

import json  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
from collections import Counter  # noqa: E402
from random import Random  # noqa: E402

import gevent  # noqa: E402
from redis import Redis  # noqa: E402

from knowalledge.adapters.clock import SystemClock  # noqa: E402
from knowalledge.adapters.memory.quota_store import MemoryQuotaStore  # noqa: E402
from knowalledge.adapters.redis.pipe import Pipe  # noqa: E402
from knowalledge.adapters.redis.quota_store import RedisQuotaStore  # noqa: E402
from knowalledge.adapters.replica import ReplicaQuotaStore  # noqa: E402
from knowalledge.domain.admission import Ending, Rules  # noqa: E402
from knowalledge.domain.model import Priority  # noqa: E402
from knowalledge.domain.ports import Asking, Decision  # noqa: E402
from knowalledge.domain.quota import Count, Need, Window  # noqa: E402

TARGET = "one"
WINDOWS = (Window("tpm", Count.TOKENS, 100_000, 60),)
MEAN = 400  # tokens a request
REPLICAS = 3
# Longer than a window, and places for all that a window serves: so that both always have somebody waiting.
PATIENCE_S = 100.0
RULES = Rules(capacity=500)
# Requests of each tenant, in parts of what the quota has room for: both want more than their half.
OFFERED = {"light": 0.75, "heavy": 7.5}


class Callers:
    """One tenant's requests at random moments, to the replicas in turn."""

    def __init__(self, stores: list[ReplicaQuotaStore], seconds: float) -> None:
        self._stores = stores
        self._until = time.monotonic() + seconds
        self._warm = time.monotonic() + min(60.0, seconds / 2)
        self._running: set[gevent.Greenlet[..., None]] = set()
        self.tokens: Counter[str] = Counter()
        self.ends: Counter[str] = Counter()

    def come(self, tenant: str) -> None:
        dice = Random(tenant)
        a_second = OFFERED[tenant] * WINDOWS[0].limit / MEAN / WINDOWS[0].span_s
        number = 0
        while time.monotonic() < self._until:
            gevent.sleep(dice.expovariate(a_second))
            number += 1
            size = max(10, round(dice.lognormvariate(0, 0.8) * MEAN / 1.377))
            caller = gevent.spawn(
                self._ask, self._stores[number % REPLICAS], tenant, f"{tenant}-{number}", size
            )
            self._running.add(caller)
            caller.rawlink(self._running.discard)

    def _ask(self, store: ReplicaQuotaStore, tenant: str, key: str, size: int) -> None:
        need = Need(size // 2, size - size // 2)
        decision = store.ask(TARGET, Asking(key, need, Priority.MEDIUM, tenant, PATIENCE_S))
        if decision.refusal is not None:
            self.ends[f"{tenant} {decision.refusal.value}"] += 1
            return
        ticket = decision.ticket
        if ticket is not None:
            found = ticket.wait(PATIENCE_S)
            if found is None and not ticket.leave(Ending.TIMED_OUT):
                found = ticket.wait(0)  # its turn came in this very moment
            if not isinstance(found, Decision):
                self.ends[f"{tenant} {found.value if isinstance(found, Ending) else 'timed out'}"] += 1
                return
            decision = found
        assert decision.reservation is not None
        gevent.sleep(0.5)
        store.settle(decision.reservation, need)
        self.ends[f"{tenant} served"] += 1
        # Once the room has filled, until the requests cease: while both have work.
        if self._warm < time.monotonic() < self._until:
            self.tokens[tenant] += size


def main(port: int, seconds: float) -> None:
    clock = SystemClock()
    windows = {TARGET: WINDOWS}
    stores = []
    for index in range(REPLICAS):
        url = f"redis://127.0.0.1:{port}/0"
        pipe = Pipe(url, 5.0, Redis.from_url(url).pubsub)
        shared = RedisQuotaStore(pipe, windows, RULES, clock, f"replica-{index}")
        store = ReplicaQuotaStore(shared, MemoryQuotaStore(windows, RULES, clock), windows, clock)
        store.start()
        stores.append(store)
    callers = Callers(stores, seconds)
    gevent.joinall([gevent.spawn(callers.come, tenant) for tenant in OFFERED], raise_error=True)
    print(json.dumps({"tokens": callers.tokens, "ends": callers.ends}))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
