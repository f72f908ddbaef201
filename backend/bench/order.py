"""Random operations of three replicas on one room in a real Redis; the log of its grants, replayed and checked.

In a process of its own, patched as the gateway is: ``python -m bench.order REDIS_PORT OPERATIONS``; prints one JSON
object. The clock is the log's own, so that a minute's window costs no minute.
"""

from gevent import monkey

if __name__ == "__main__":
    monkey.patch_all()

import json
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from random import Random
from typing import Any, assert_never

import gevent
import msgspec
from redis import Redis

from knowalledge.core.clock import SystemClock
from knowalledge.core.context import Priority
from knowalledge.net.redis.multiplexed import MultiplexedClient
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, Waiter
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.ports import (
    Dequeued,
    Granted,
    Queued,
    Refused,
    Reservation,
    ReservationRequest,
    Ticket,
)
from knowalledge.quota.redis import LocalUsage, RedisQuotaStore

TARGET = "one"
WINDOWS = (Window("rpm", Count.REQUESTS, 50, 60), Window("tpm", Count.TOKENS, 500, 60))
RULES = QueueRules(capacity=40, aging_s=3.0)
REPLICAS = 3
START = 1_790_000_000 * SECOND
HEARD_S = 10.0  # by then a message has come
FOREVER_S = 1e9


def inversions(served: Iterable[Waiter]) -> Iterator[tuple[Waiter, Waiter]]:
    """Pairs of one tenant and level of whom the later came to be served first: nobody, if the order holds."""
    latest: dict[tuple[Priority, str], Waiter] = {}
    for it in served:
        before = latest.get((it.level, it.tenant))
        if before is not None and (before.arrived, before.id) >= (it.arrived, it.id):
            yield before, it
        else:
            latest[it.level, it.tenant] = it


class Replicas:
    """The stores, and what becomes of whom."""

    def __init__(self, port: int) -> None:
        url = f"redis://127.0.0.1:{port}/0"
        self.now = START
        client: Any = Redis.from_url(url)  # whose pubsub has no types
        self._heard = client.pubsub(ignore_subscribe_messages=True)
        self._heard.psubscribe("kn:replica:*")
        self._heard.get_message(timeout=HEARD_S)  # that it listens
        self.stores = [
            RedisQuotaStore(
                MultiplexedClient(url, HEARD_S, client.pubsub),
                {TARGET: WINDOWS},
                RULES,
                SystemClock(),
                f"replica-{index}",
                moment=lambda: str(self.now),
                pumps=False,
            )
            for index in range(REPLICAS)
        ]
        nothing = LocalUsage(
            ({},) * len(WINDOWS), (0,) * len(WINDOWS), tuple(it.limit for it in WINDOWS), (), ()
        )
        for store in self.stores:
            store.join(TARGET, lambda _: nothing, 0.0)
            gevent.spawn(store.listen)
        while client.pubsub_numsub(*(f"kn:replica:replica-{it}" for it in range(REPLICAS)))[-1][1] == 0:
            gevent.sleep(0.01)
        self.waiting: dict[str, tuple[RedisQuotaStore, Waiter, Ticket]] = {}
        self.live: list[tuple[RedisQuotaStore, Reservation]] = []
        self.served: list[Waiter] = []  # in the order in which Redis granted
        self.ends: Counter[str] = Counter()

    def reserve(self, store: RedisQuotaStore, waiter: Waiter) -> None:
        request = ReservationRequest(waiter.id, waiter.need, waiter.level, waiter.tenant, FOREVER_S)
        decision = store.reserve(TARGET, request)
        match decision:
            case Granted(reservation):
                self.ends[QueueOutcome.GRANTED] += 1
                self.served.append(waiter)
                self.live.append((store, reservation))
            case Queued(ticket):
                self.waiting[waiter.id] = store, waiter, ticket
            case Refused(reason):
                self.ends[f"refused: {reason}"] += 1
            case _:
                assert_never(decision)

    def cancel(self, key: str) -> None:
        left = self.waiting.pop(key)[2].leave(QueueOutcome.CANCELLED)
        assert left, f"{key} was granted or shed, and nobody had said so"
        self.ends[QueueOutcome.CANCELLED] += 1

    def hear(self) -> None:
        """What the last operation did to those who wait: said by Redis, in its order, before it answers a ping."""
        self._heard.ping()
        while True:
            message = self._heard.get_message(timeout=HEARD_S)
            assert message is not None
            if message["type"] == "pong":
                return
            self._tell(msgspec.msgpack.decode(message["data"]))

    def _tell(self, message: list[Any]) -> None:
        _, what, key, *_ = message
        store, waiter, ticket = self.waiting.pop(key)
        result = ticket.wait(HEARD_S)  # the replica has heard it too
        if what == "granted":
            assert isinstance(result, Granted)
            self.served.append(waiter)
            self.live.append((store, result.reservation))
        else:
            assert result == Dequeued(QueueOutcome.SHED)
        self.ends[what] += 1


def main(port: int, operations: int) -> None:
    replicas, draw = Replicas(port), Random(7)
    asked = 0
    for number in range(operations):
        replicas.now += int(draw.expovariate(2.0) * SECOND) + 1
        store, kind = draw.choice(replicas.stores), draw.random()
        if kind < 0.5:
            level, tenant = Priority(draw.randrange(4)), draw.choice("abc")
            need = TokenCost(draw.randrange(1, 40), draw.randrange(20))
            replicas.reserve(store, Waiter(f"{number:07}", level, tenant, need, replicas.now))
            asked += 1
        elif kind < 0.6 and replicas.waiting:
            replicas.cancel(draw.choice(list(replicas.waiting)))
        elif kind < 0.8 and replicas.live:
            owner, reservation = replicas.live.pop(draw.randrange(len(replicas.live)))
            owner.settle(reservation, TokenCost(reservation.cost.input, draw.randrange(20)))
        else:
            store.dispatch(TARGET)
        replicas.hear()
    assert asked == sum(replicas.ends.values()) + len(replicas.waiting)
    found = {
        "operations": operations,
        "served": len(replicas.served),
        "inversions": len(list(inversions(replicas.served))),
        "ends": replicas.ends,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
