"""One server, Sentinel and Cluster, each a real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from knowalledge.core.clock import SystemClock
from knowalledge.net.redis.client import any_node, is_single_server, make_client
from knowalledge.quota.commands import LocalUsage
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import Count, TokenCost, Window
from knowalledge.quota.ports import Granted, ReservationRequest
from knowalledge.quota.redis import RedisQuotaStore
from tests.support.redis_kinds import as_cluster, behind_sentinel, wait_ready

WINDOW = Window("rpm", Count.REQUESTS, 2, 60)


@pytest.fixture
def sentinel(tmp_path: Path, redis_port: int) -> Iterator[str]:
    with behind_sentinel(tmp_path, redis_port) as url:
        yield url


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    with as_cluster(tmp_path) as url:
        yield url


@pytest.mark.parametrize("kind", ["redis_url", "sentinel", "cluster"])
def test_the_quota_is_kept_wherever_redis_is(kind: str, request: pytest.FixtureRequest) -> None:
    url: str = request.getfixturevalue(kind)
    assert is_single_server(url) == (kind == "redis_url")
    with make_client(url, 2.0, 10) as redis:
        wait_ready(redis)
        any_node(redis).flushall()
        stores = [
            RedisQuotaStore(redis, {"t": (WINDOW,)}, QueueRules(), SystemClock(), name, auto_dispatch=False)
            for name in "ab"
        ]
        for store in stores:
            store.join("t", lambda _: LocalUsage(({},), (0,), (2,), (), ()), 0)
        decisions = [
            stores[index % 2].reserve("t", ReservationRequest(str(index), TokenCost(1, 1)))
            for index in range(4)
        ]
        granted = [isinstance(it, Granted) for it in decisions]
        assert granted == [True, True, False, False]
