"""Redis behind a Sentinel, and as a Cluster of one node: real processes, smallest possible."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from bench.ports import free_port
from tests.conftest import redis_binary


def wait_ready(redis: Redis, *command: str | int) -> None:
    """Wait until Redis executes a command, by default a write."""
    client: Any = redis
    for _ in range(400):
        try:
            client.execute_command(*(command or ("SET", "{well}", 1)))
        except RedisError:
            time.sleep(0.025)
        else:
            return
    raise AssertionError("Redis did not start")


@contextmanager
def _served(folder: Path, *args: str) -> Iterator[None]:
    command = [redis_binary(), *args, "--bind", "127.0.0.1", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@contextmanager
def behind_sentinel(folder: Path, redis_port: int) -> Iterator[str]:
    """The URL of a server behind a Sentinel."""
    port = free_port()
    config = folder / "sentinel.conf"
    config.write_text(f"port {port}\nsentinel monitor main 127.0.0.1 {redis_port} 1\n")
    with _served(folder, str(config), "--sentinel"), Redis(port=port) as redis:
        wait_ready(redis, "PING")
        yield f"redis+sentinel://127.0.0.1:{port}/main/0"


@contextmanager
def as_cluster(folder: Path) -> Iterator[str]:
    """The address of a Cluster."""
    port, bus = free_port(), free_port()
    options = ("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus), "--save", "")
    with _served(folder, *options), Redis(port=port) as redis:
        wait_ready(redis, "CLUSTER", "ADDSLOTSRANGE", 0, 16383)
        wait_ready(redis)
        yield f"redis+cluster://127.0.0.1:{port}"
