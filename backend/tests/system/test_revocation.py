"""A key that is revoked, as real replicas refuse it: over one database, while Redis and the database come and go."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
import requests

from bench.ports import free_port
from tests.conftest import start_redis
from tests.support.postgres import Postgres
from tests.system.processes import BACKEND, READY_S, gateway

pytestmark = pytest.mark.system

SECRET = "a secret of more than enough letters"
WITHIN_S = 1.0


class House:
    """Replicas over one database and one Redis."""

    def __init__(self, folder: Path, database: str, redis_port: int) -> None:
        self._folder = folder
        self.config = (
            f"redis_url: redis://127.0.0.1:{redis_port}/0\ndatabase_url: {database}\n"
            f"auth: {{mode: required, secret: {SECRET}}}\n"
            "models: {m: {targets: [{name: t, provider: openai, api_key: k}]}}\n"
        )
        (folder / "cli.yaml").write_text(self.config)

    def run(self, *args: str) -> str:
        command = [sys.executable, "-m", "knowalledge.cli", *args, "--config", str(self._folder / "cli.yaml")]
        environ = os.environ | {"PYTHONPATH": str(BACKEND / "src")}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environ).stdout.strip()

    @contextmanager
    def replicas(self, number: int) -> Iterator[list[str]]:
        with ExitStack() as stack:
            found = []
            for index in range(number):
                folder = self._folder / f"replica-{index}"
                folder.mkdir()
                found.append(stack.enter_context(gateway(self.config, folder)))
            yield found


def status(replica: str, key: str) -> int:
    return requests.get(
        f"{replica}/v1/models", headers={"Authorization": f"Bearer {key}"}, timeout=10
    ).status_code


def refused_after(replicas: list[str], key: str) -> float:
    """Seconds from now until every replica has refused the key; afterwards none may take it again."""
    began, waiting = time.monotonic(), set(replicas)
    while waiting:
        waiting -= {it for it in waiting if status(it, key) == 401}
        assert time.monotonic() - began < READY_S
    took = time.monotonic() - began
    assert [status(it, key) for it in replicas] == [401] * len(replicas)
    return took


@pytest.mark.parametrize("engine", ["sqlite", "postgresql"])
def test_every_replica_refuses_a_revoked_key_within_a_second_also_while_redis_restarts(
    engine: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    database = f"sqlite:///{tmp_path}/k.db"
    if engine == "postgresql":
        database = request.getfixturevalue("postgres").url
    port = free_port()
    redis = start_redis(port)
    try:
        house = House(tmp_path, database, port)
        house.run("db", "upgrade")
        keys = [house.run("keys", "create", "--user", f"u{number}") for number in range(2)]
        with house.replicas(3) as replicas:
            assert {status(it, key) for it in replicas for key in keys} == {200}
            house.run("keys", "revoke", keys[0].split("-")[1])
            assert refused_after(replicas, keys[0]) < WITHIN_S
            redis.kill()
            redis.wait(10)
            house.run("keys", "revoke", keys[1].split("-")[1])
            assert refused_after(replicas, keys[1]) < WITHIN_S
    finally:
        redis.kill()
        redis.wait(10)


def test_known_keys_count_while_the_database_is_away_and_what_changed_counts_when_it_is_back(
    tmp_path: Path, postgres: Postgres
) -> None:
    house = House(tmp_path, postgres.url, free_port())
    house.run("db", "upgrade")
    known, other = (house.run("keys", "create", "--user", name) for name in ("known", "other"))
    with house.replicas(1) as (replica,):
        assert status(replica, known) == 200
        postgres.stop()
        try:
            assert status(replica, known) == 200
            assert status(replica, other) == 503
            assert status(replica, known[:-1] + ("2" if known[-1] != "2" else "3")) == 401
            assert "database" in requests.get(f"{replica}/api/ready", timeout=10).text
        finally:
            postgres.start()
        house.run("keys", "revoke", known.split("-")[1])
        assert refused_after([replica], known) < 2 * WITHIN_S
        assert status(replica, other) == 200


def test_a_server_without_the_tables_refuses_the_start_and_says_what_to_run(
    tmp_path: Path, postgres: Postgres
) -> None:
    house = House(tmp_path, postgres.url, free_port())
    with pytest.raises(subprocess.CalledProcessError) as caught:
        house.run("serve", "--bind", f"127.0.0.1:{free_port()}")
    assert caught.value.returncode == 2
    assert "knowalledge db upgrade" in caught.value.stderr
