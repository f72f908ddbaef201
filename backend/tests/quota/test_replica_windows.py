"""A replica whose windows differ from those of the state in Redis is refused, until nobody keeps that state."""

import pytest
from redis import Redis

from knowalledge.quota.commands import LocalUsage, RedisUnavailable
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, TokenCost, Window
from knowalledge.quota.ports import ReservationRequest
from knowalledge.quota.redis import LEASE_S, RedisQuotaStore
from tests.support.decisions import granted
from tests.support.doubles import CuttableRedis, ManualClock

RPM = Window("rpm", Count.REQUESTS, 10, 60)
OTHERS = {
    "one more": (RPM, Window("tpm", Count.TOKENS, 100, 60)),
    "another span": (Window("rpm", Count.REQUESTS, 10, 120),),
    "another count": (Window("rpm", Count.TOKENS, 10, 60),),
    "a day": (Window("rpm", Count.REQUESTS, 10, 86_400, zone="UTC"),),
}


def store(redis: Redis, clock: ManualClock, name: str, windows: tuple[Window, ...]) -> RedisQuotaStore:
    return RedisQuotaStore(
        CuttableRedis(redis),
        {"t": windows},
        QueueRules(),
        clock,
        name,
        redis_now=lambda: str(int(clock.now() * SECOND)),
        auto_dispatch=False,
    )


def join(store: RedisQuotaStore, windows: tuple[Window, ...]) -> None:
    count = len(windows)
    store.join("t", lambda _: LocalUsage(({},) * count, (0,) * count, (10,) * count, (), ()), 0)


@pytest.mark.parametrize("windows", OTHERS.values(), ids=OTHERS)
def test_other_windows_are_refused_while_a_replica_lives_and_begin_anew_afterwards(
    windows: tuple[Window, ...], redis_client: Redis, clock: ManualClock
) -> None:
    first, other = store(redis_client, clock, "a", (RPM,)), store(redis_client, clock, "b", windows)
    join(first, (RPM,))
    granted(first.reserve("t", ReservationRequest("1", TokenCost(1, 0))))
    with pytest.raises(RedisUnavailable, match="other windows"):
        join(other, windows)
    assert first.window_status("t")[0].used == 1
    clock.sleep(LEASE_S + 1)
    with pytest.raises(RedisUnavailable, match="other windows"):
        join(other, windows)  # sees that nobody lives
    join(other, windows)
    granted(other.reserve("t", ReservationRequest("2", TokenCost(1, 0))))
    assert other.window_status("t")[0].used == 1


def test_other_limits_are_no_other_windows(redis_client: Redis, clock: ManualClock) -> None:
    lower = (Window("rpm", Count.REQUESTS, 5, 60),)
    join(store(redis_client, clock, "a", (RPM,)), (RPM,))
    join(store(redis_client, clock, "b", lower), lower)
