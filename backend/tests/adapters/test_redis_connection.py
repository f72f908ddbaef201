"""One server, Sentinel and Cluster, each a real one."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from knowalledge.adapters.clock import SystemClock
from knowalledge.adapters.redis.connection import client, one_node, plain
from knowalledge.adapters.redis.quota_store import RedisQuotaStore, Spent
from knowalledge.domain.admission import Rules
from knowalledge.domain.ports import Asking
from knowalledge.domain.quota import Count, Need, Window
from tests.conftest import free_port, redis_binary

WINDOW = Window("rpm", Count.REQUESTS, 2, 60)


def serve(folder: Path, *args: str) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(
        [redis_binary(), *args, "--bind", "127.0.0.1", "--dir", str(folder)], stdout=subprocess.DEVNULL
    )


def until_well(redis: Redis) -> None:
    for _ in range(400):
        try:
            redis.set("{well}", 1)
        except RedisError:
            time.sleep(0.025)
        else:
            return
    raise AssertionError("Redis did not start")


@pytest.fixture
def sentinel(tmp_path: Path, redis_port: int) -> Iterator[str]:
    port = free_port()
    config = tmp_path / "sentinel.conf"
    config.write_text(f"port {port}\nsentinel monitor main 127.0.0.1 {redis_port} 1\n")
    process = serve(tmp_path, str(config), "--sentinel")
    with Redis(port=port) as redis:
        for _ in range(400):
            try:
                redis.ping()
                break
            except RedisError:
                time.sleep(0.025)
    yield f"redis+sentinel://127.0.0.1:{port}/main/0"
    process.terminate()
    process.wait(10)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[str]:
    port, bus = free_port(), free_port()
    process = serve(
        tmp_path,
        *("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus), "--save", ""),
    )
    with Redis(port=port) as redis:
        for _ in range(400):
            try:
                redis.execute_command("CLUSTER ADDSLOTSRANGE", 0, 16383)
                break
            except RedisError:
                time.sleep(0.025)
        until_well(redis)
    yield f"redis+cluster://127.0.0.1:{port}"
    process.terminate()
    process.wait(10)


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
