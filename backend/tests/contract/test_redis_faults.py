"""Every supported server at fault: the quota goes on, says why, gives back what it holds, and rejoins.

The replica and its client are real, and so is the server, which is brought into each state by its own commands.
"""

import threading
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from redis import Redis
from redis.exceptions import RedisError

from knowalledge.core.clock import SystemClock
from knowalledge.net.redis.client import make_client
from knowalledge.net.redis.multiplexed import MultiplexedClient
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Granted, Reservation, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
from tests.support.doubles import CuttableRedis
from tests.support.redis_servers import VERSIONS, serving
from tests.support.redis_servers import server as program_of

WINDOWS = {"t": (Window("rpm", Count.REQUESTS, 1000, 60), Window("tpm", Count.TOKENS, 10_000, 60))}


class Fault:
    """A state of a server in which it cannot be used: how it begins and ends, and the reason that is told."""

    def __init__(
        self, reason: str, begin: Callable[[Redis], object], end: Callable[[Redis], object], *options: str
    ) -> None:
        self.reason, self.begin, self.end, self.options = reason, begin, end, options


def command(redis: Redis, *args: str) -> None:
    client: Any = redis  # its stubs leave this untyped
    client.execute_command(*args)


def acl(*rules: str) -> Callable[[Redis], object]:
    return lambda redis: command(redis, "ACL", "SETUSER", "default", *rules)


def config(**values: str) -> Callable[[Redis], object]:
    return lambda redis: [redis.config_set(name.replace("_", "-"), value) for name, value in values.items()]


def others_leave(redis: Redis) -> None:
    command(redis, "CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")


def lock_out(redis: Redis) -> None:
    command(redis, "CONFIG", "SET", "requirepass", "new")
    redis.connection_pool.connection_kwargs["password"] = "new"
    others_leave(redis)


def let_in(redis: Redis) -> None:
    command(redis, "CONFIG", "SET", "requirepass", "")
    redis.connection_pool.connection_kwargs.pop("password")
    redis.connection_pool.disconnect()


def keep_busy(redis: Redis) -> None:
    port = redis.connection_pool.connection_kwargs["port"]

    def loop() -> None:
        with Redis(port=port) as other, pytest.raises(RedisError):
            other.eval("while true do end", 0)

    threading.Thread(target=loop, daemon=True).start()
    for _ in range(400):
        try:
            redis.ping()
        except RedisError:
            return


def of_wrong_type(key: str) -> Fault:
    """Repaired by the replica itself: what cannot be read is begun anew, with what each replica has spent."""

    def begin(redis: Redis) -> None:
        redis.delete(f"kn:{{t}}:{key}")
        redis.geoadd(f"kn:{{t}}:{key}", (0.0, 0.0, "x")) if key != "alive" else redis.set("kn:{t}:alive", "x")

    return Fault("WRONGTYPE", begin, lambda redis: None)


FAULTS = {
    "demoted": Fault(
        "READONLY",
        lambda redis: redis.replicaof("127.0.0.1", "1"),
        lambda redis: redis.replicaof("NO", "ONE"),
    ),
    "demoted and out of date": Fault(
        "MASTERDOWN",
        lambda redis: [config(replica_serve_stale_data="no")(redis), redis.replicaof("127.0.0.1", "1")],
        lambda redis: redis.replicaof("NO", "ONE"),
    ),
    "full": Fault("OOM", config(maxmemory="1"), config(maxmemory="0")),
    "without replicas": Fault(
        "NOREPLICAS", config(min_replicas_to_write="1"), config(min_replicas_to_write="0")
    ),
    "password set": Fault("NOAUTH", lock_out, let_in),
    "no script may be called": Fault("NOPERM", acl("-evalsha", "-eval"), acl("+@all")),
    "no key may be written": Fault("NOPERM", acl("resetkeys", "~other:*"), acl("~*")),
    "a script may not write": Fault("NOPERM", acl("-hset", "-set"), acl("+@all")),
    "frozen": Fault(
        "TimeoutError", lambda redis: command(redis, "CLIENT", "PAUSE", "2500", "ALL"), lambda redis: None
    ),
    "too many clients": Fault(
        "ERR",
        lambda redis: [config(maxclients="1")(redis), others_leave(redis)],
        config(maxclients="100"),
    ),
    "a script runs for ever": Fault(
        "BUSY", keep_busy, lambda redis: redis.script_kill(), "--lua-time-limit", "50"
    ),
} | {f"{key} is of another type": of_wrong_type(key) for key in ("quota", "rings", "live:a", "room", "alive")}


@pytest.fixture(params=VERSIONS)
def program(request: pytest.FixtureRequest) -> str:
    return program_of(request.param)


def replica(url: str) -> ReplicaQuotaStore:
    clock, rules = SystemClock(), QueueRules()
    pool: Any = make_client(url, 1.0, 10)
    client = MultiplexedClient(url, 1.0, pool.pubsub)
    mirror = MemoryQuotaStore(WINDOWS, rules, clock)
    return ReplicaQuotaStore(RedisQuotaStore(client, WINDOWS, rules, clock, "a"), mirror, WINDOWS, clock)


def reserve(store: ReplicaQuotaStore, name: str) -> tuple[Reservation, bool]:
    decision = store.reserve("t", ReservationRequest(name, TokenCost(10, 10)))
    assert isinstance(decision, Granted)
    return decision.reservation, decision.degraded


def until(true: Callable[[], object], seconds: float) -> None:
    with gevent.Timeout(seconds):
        while not true():
            gevent.sleep(0.01)


@pytest.fixture
def server(program: str, request: pytest.FixtureRequest) -> Iterator[Redis]:
    with serving(program, *FAULTS[request.node.callspec.params["fault"]].options) as redis:
        yield redis


@pytest.mark.parametrize("fault", FAULTS)
def test_a_server_at_fault_costs_no_request_and_holds_nothing(server: Redis, fault: str) -> None:
    state = FAULTS[fault]
    store = replica(f"redis://127.0.0.1:{server.connection_pool.connection_kwargs['port']}/0")
    before, degraded = reserve(store, "before")
    assert not degraded
    state.begin(server)
    # One that ends at the moment of the fault, and one that begins in it.
    store.settle(before, TokenCost(10, 5))
    store._flush("t")
    store._send_heartbeats()
    during, degraded = reserve(store, "during")
    assert degraded
    gevent.sleep(0.3)  # the way back is tried, in vain
    if state.reason != "WRONGTYPE":
        assert store.degraded
        assert store.reason.split()[-1] == state.reason
    state.end(server)
    until(lambda: not store.degraded, 5)
    assert store.reason == ""
    store.settle(during, TokenCost(10, 5))
    store.stop()
    assert [it.held for it in store.window_status("t")] == [0, 0]
    assert store.window_status("t")[0].used == 2


class OddRedis(CuttableRedis):
    """Answers every script with something that is no answer of ours, while ``odd`` says what."""

    odd: Any = None
    is_odd = False

    def execute_command(self, *args: Any) -> Any:
        return self.odd if self.is_odd else super().execute_command(*args)


@pytest.mark.parametrize(
    "reply", [5, b"\xff\xfe", [], [0], [b"x", b"y", None, {}], {}, True, [[1], 2, 3, 4, 5, 6, 7]]
)
def test_replies_that_cannot_be_decoded_are_an_outage(redis_client: Redis, reply: object) -> None:
    client, clock, rules = OddRedis(redis_client), SystemClock(), QueueRules()
    mirror = MemoryQuotaStore(WINDOWS, rules, clock)
    store = ReplicaQuotaStore(RedisQuotaStore(client, WINDOWS, rules, clock, "a"), mirror, WINDOWS, clock)
    before, _ = reserve(store, "before")
    client.odd, client.is_odd = reply, True
    during, degraded = reserve(store, "during")
    assert degraded
    assert store.reason.startswith("UnexpectedReply")
    client.is_odd = False
    until(lambda: not store.degraded, 5)
    for reservation in (before, during):
        store.settle(reservation, TokenCost(10, 5))
    store.stop()
    assert [it.held for it in store.window_status("t")] == [0, 0]


def test_scripts_that_were_flushed_are_sent_again(redis_client: Redis) -> None:
    store = replica(f"redis://127.0.0.1:{redis_client.connection_pool.connection_kwargs['port']}/0")
    reserve(store, "before")
    redis_client.script_flush()
    _, degraded = reserve(store, "after")
    assert not degraded
