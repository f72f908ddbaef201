"""What the suites over both quota stores share; the fixture that makes the stores is in conftest.py."""

from collections.abc import Callable
from itertools import count

import pytest
from redis import Redis

from knowalledge.core.context import Priority
from knowalledge.quota.commands import Gate, LocalUsage
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, LevelPolicy, TokenCost, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import Decision, QuotaStore, Reservation, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from tests.support.decisions import granted
from tests.support.doubles import ManualClock

WINDOWS = (
    Window("rpm", Count.REQUESTS, 10, 60),
    Window("tpm", Count.TOKENS, 1000, 60),
    Window("otpm", Count.OUTPUT, 700, 7),
    Window("rpd", Count.REQUESTS, 60, 86_400, zone="America/Los_Angeles"),
)
OPEN = Gate()
LEARNT = Window("learnt", Count.REQUESTS, 4, 60, learn=True)
RULES = QueueRules(
    capacity=3, aging_s=5.0, weights={"heavy": 2.0}, policies={Priority.LOW: LevelPolicy(0.9, 0.1)}
)


def redis_store(
    client: Redis, clock: ManualClock, *windows: Window, rules: QueueRules = RULES
) -> RedisQuotaStore:
    """The Redis store under the test's clock instead of Redis' own."""
    store = not_joined(client, clock, *windows, rules=rules)
    if windows:
        join(store, windows)
    return store


def not_joined(
    client: Redis, clock: ManualClock, *windows: Window, rules: QueueRules = RULES, replica: str = "a"
) -> RedisQuotaStore:
    """The same before it joins."""
    return RedisQuotaStore(
        client,
        {"t": windows},
        rules,
        clock,
        replica,
        redis_now=lambda: str(int(clock.now() * SECOND)),
        auto_dispatch=False,
    )


def join(store: RedisQuotaStore, windows: tuple[Window, ...], gate: Gate = OPEN, pause_s: float = 0) -> None:
    """Join having spent nothing."""
    limits = tuple(it.limit for it in windows)
    spent = LocalUsage(({},) * len(windows), (0,) * len(windows), limits, (), (), gate=gate)
    store.join("t", lambda everything: spent, pause_s)


Store = MemoryQuotaStore | RedisQuotaStore
Make = Callable[..., Store]

KEYS = count()
ONE = TokenCost(1, 0)


def reserve(
    store: QuotaStore,
    cost: TokenCost,
    level: Priority = Priority.HIGH,
    patience: float = 0.0,
    tenant: str = "",
) -> Decision:
    return store.reserve("t", ReservationRequest(f"{next(KEYS):06}", cost, level, tenant, patience))


def take(store: QuotaStore, cost: TokenCost) -> Reservation:
    return granted(reserve(store, cost))


def pump(store: Store) -> float:
    """What the store's own greenlets do when their time comes."""
    wait = store.dispatch("t")
    if isinstance(store, RedisQuotaStore):
        store.heartbeat("t")  # finds the grants whose messages nobody listens for in these tests
    return wait


def agree(one: QuotaStore, other: QuotaStore) -> None:
    """Both say the same of what is used, what has ended and who waits."""
    assert one.window_status("t") == other.window_status("t")
    assert one.totals("t") == other.totals("t")
    for mine, theirs in zip(one.queue_stats("t"), other.queue_stats("t"), strict=True):
        assert mine.waiting == theirs.waiting
        assert mine.tenants.keys() == theirs.tenants.keys()
        for name, tenant in mine.tenants.items():
            twin = theirs.tenants[name]
            assert (tenant.waiting, tenant.left) == (twin.waiting, twin.left)
            assert (tenant.oldest_s, tenant.eta_s) == pytest.approx((twin.oldest_s, twin.eta_s), abs=1e-5)
        assert mine.left == theirs.left
        assert mine.eta_s == pytest.approx(theirs.eta_s, abs=1e-5)
