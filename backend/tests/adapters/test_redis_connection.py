"""One server, Sentinel and Cluster, each a real one."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from knowalledge.adapters.clock import SystemClock
from knowalledge.adapters.redis.connection import client, one_node, plain
from knowalledge.adapters.redis.quota_store import RedisQuotaStore, Spent
from knowalledge.domain.admission import Rules
from knowalledge.domain.ports import Asking
from knowalledge.domain.quota import Count, Need, Window
from tests.redis_kinds import as_cluster, behind_sentinel, until_well

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
    assert plain(url) == (kind == "redis_url")
    with client(url, 2.0, 10) as redis:
        until_well(redis)
        one_node(redis).flushall()
        stores = [
            RedisQuotaStore(redis, {"t": (WINDOW,)}, Rules(), SystemClock(), name, pumps=False)
            for name in "ab"
        ]
        for store in stores:
            store.join("t", lambda _: Spent(({},), (0,), (2,), (), ()), 0)
        granted = [
            stores[index % 2].ask("t", Asking(str(index), Need(1, 1))).reservation is not None
            for index in range(4)
        ]
        assert granted == [True, True, False, False]
