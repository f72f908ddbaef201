"""Random operations of three replicas on one wait queue in a real Redis; the order of its grants is checked.

Run in a process of its own, patched as the gateway is: ``python -m bench.order REDIS_PORT OPERATIONS``; prints one JSON
object. The clock is simulated, so that a minute's window takes no minute.
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
from knowalledge.quota.commands import LocalUsage
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
from knowalledge.quota.redis import RedisQuotaStore

TARGET = "one"
WINDOWS = (Window("rpm", Count.REQUESTS, 50, 60), Window("tpm", Count.TOKENS, 500, 60))
RULES = QueueRules(capacity=40, aging_s=3.0)
REPLICAS = 3
START = 1_790_000_000 * SECOND
MESSAGE_TIMEOUT_S = 10.0
FOREVER_S = 1e9


def inversions(served: Iterable[Waiter]) -> Iterator[tuple[Waiter, Waiter]]:
    """Pairs within a tenant and level of which the later arrival was served first; none if the order is right."""
    latest: dict[tuple[Priority, str], Waiter] = {}
    for waiter in served:
        before = latest.get((waiter.level, waiter.tenant))
        if before is not None and (before.arrived, before.id) >= (waiter.arrived, waiter.id):
            yield before, waiter
        else:
            latest[waiter.level, waiter.tenant] = waiter


class Replicas:
    """The stores of three replicas, their waiters and reservations, and how each request ended."""

    def __init__(self, port: int) -> None:
        url = f"redis://127.0.0.1:{port}/0"
        self.now = START
        client: Any = Redis.from_url(url)  # whose pubsub has no types
        self._pubsub = client.pubsub(ignore_subscribe_messages=True)
        self._pubsub.psubscribe("kn:replica:*")
        self._pubsub.get_message(timeout=MESSAGE_TIMEOUT_S)  # the confirmation of the subscription
        self.stores = [
            RedisQuotaStore(
                MultiplexedClient(url, MESSAGE_TIMEOUT_S, client.pubsub),
                {TARGET: WINDOWS},
                RULES,
                SystemClock(),
                f"replica-{index}",
                redis_now=lambda: str(self.now),
                auto_dispatch=False,
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
        self.outcomes: Counter[str] = Counter()

    def reserve(self, store: RedisQuotaStore, waiter: Waiter) -> None:
        request = ReservationRequest(waiter.id, waiter.cost, waiter.level, waiter.tenant, FOREVER_S)
        decision = store.reserve(TARGET, request)
        match decision:
            case Granted(reservation):
                self.outcomes[QueueOutcome.GRANTED] += 1
                self.served.append(waiter)
                self.live.append((store, reservation))
            case Queued(ticket):
                self.waiting[waiter.id] = store, waiter, ticket
            case Refused(reason):
                self.outcomes[f"refused: {reason}"] += 1
            case _:
                assert_never(decision)

    def cancel(self, key: str) -> None:
        left = self.waiting.pop(key)[2].leave(QueueOutcome.CANCELLED)
        assert left, f"{key} was granted or shed without a message"
        self.outcomes[QueueOutcome.CANCELLED] += 1

    def receive(self) -> None:
        """Apply the messages of the last operation, which Redis delivers in order and before the reply to a ping."""
        self._pubsub.ping()
        while True:
            message = self._pubsub.get_message(timeout=MESSAGE_TIMEOUT_S)
            assert message is not None
            if message["type"] == "pong":
                return
            self._apply(msgspec.msgpack.decode(message["data"]))

    def _apply(self, message: list[Any]) -> None:
        _, outcome, key, *_ = message
        store, waiter, ticket = self.waiting.pop(key)
        result = ticket.wait(MESSAGE_TIMEOUT_S)  # the replica has received the message too
        if outcome == "granted":
            assert isinstance(result, Granted)
            self.served.append(waiter)
            self.live.append((store, result.reservation))
        else:
            assert result == Dequeued(QueueOutcome.SHED)
        self.outcomes[outcome] += 1


def main(port: int, operations: int) -> None:
    replicas, rng = Replicas(port), Random(7)
    requests = 0
    for number in range(operations):
        replicas.now += int(rng.expovariate(2.0) * SECOND) + 1
        store, kind = rng.choice(replicas.stores), rng.random()
        if kind < 0.5:
            level, tenant = Priority(rng.randrange(4)), rng.choice("abc")
            cost = TokenCost(rng.randrange(1, 40), rng.randrange(20))
            replicas.reserve(store, Waiter(f"{number:07}", level, tenant, cost, replicas.now))
            requests += 1
        elif kind < 0.6 and replicas.waiting:
            replicas.cancel(rng.choice(list(replicas.waiting)))
        elif kind < 0.8 and replicas.live:
            owner, reservation = replicas.live.pop(rng.randrange(len(replicas.live)))
            owner.settle(reservation, TokenCost(reservation.cost.input, rng.randrange(20)))
        else:
            store.dispatch(TARGET)
        replicas.receive()
    assert requests == sum(replicas.outcomes.values()) + len(replicas.waiting)
    result = {
        "operations": operations,
        "served": len(replicas.served),
        "inversions": len(list(inversions(replicas.served))),
        "ends": replicas.outcomes,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
