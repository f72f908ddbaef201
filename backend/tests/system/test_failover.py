"""A Redis master is killed under load: Sentinels or the Cluster make another one, and no request is lost."""

import random
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests
from redis import Redis

from bench.ports import free_port
from tests.conftest import redis_binary
from tests.system.processes import gateway, simulator, until

LIMIT, WINDOW_S, JUDGED_S = 60, 6, 4.5  # the judge is more lenient than the machine may be late
BROKEN_AT, SECONDS = 3.0, 12.0
NOTICED_MS = "1000"  # after which a master that is silent is replaced


class Servers:
    """Redis processes of one test; those that are still there end with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[int, subprocess.Popen[bytes]] = {}

    def start(self, *args: str, port: int | None = None) -> int:
        """A server on a free port, which is given back when it answers."""
        port = port or free_port()
        home = self.folder / str(port)
        home.mkdir()
        command = [redis_binary(), *args, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(home)]
        self.running[port] = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        until(lambda: self.ask(port, "PING"))
        return port

    def ask(self, port: int, *command: str | int) -> Any:
        """Its reply, in the form that the library gives it."""
        with Redis(port=port, socket_timeout=2, decode_responses=True) as redis:
            return redis.execute_command(*command)

    def kill(self, port: int) -> None:
        self.running[port].kill()

    def stop(self) -> None:
        for process in self.running.values():
            process.kill()
        for process in self.running.values():
            process.wait(10)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    found = Servers(tmp_path)
    yield found
    found.stop()


def sentinels(servers: Servers) -> tuple[str, int]:
    """The address of a master with a replica that three Sentinels watch, and its port."""
    master = servers.start("--save", "")
    servers.start("--save", "", "--replicaof", "127.0.0.1", str(master))
    until(lambda: "slave0" in servers.ask(master, "INFO", "replication"))
    ports = [free_port() for _ in range(3)]
    for port in ports:
        config = servers.folder / f"{port}.conf"
        config.write_text(
            f"sentinel monitor main 127.0.0.1 {master} 2\n"
            f"sentinel down-after-milliseconds main {NOTICED_MS}\n"
            "sentinel failover-timeout main 5000\n"
        )
        servers.start(str(config), "--sentinel", port=port)

    def known(port: int) -> bool:
        others = servers.ask(port, "SENTINEL", "SENTINELS", "main")
        return len(others) == 2 and bool(servers.ask(port, "SENTINEL", "REPLICAS", "main"))

    until(lambda: all(map(known, ports)))
    return "redis+sentinel://" + ",".join(f"127.0.0.1:{port}" for port in ports) + "/main/0", master


def cluster(servers: Servers) -> tuple[str, int]:
    """The address of a Cluster of three masters with a replica each, and the port of the one that has our target."""
    options = ("--save", "", "--cluster-enabled", "yes", "--cluster-node-timeout", NOTICED_MS)
    ports = [servers.start(*options, "--cluster-port", str(free_port())) for _ in range(6)]
    masters, replicas = ports[:3], ports[3:]
    for index, port in enumerate(masters):
        servers.ask(port, "CLUSTER", "ADDSLOTSRANGE", index * 16384 // 3, (index + 1) * 16384 // 3 - 1)
    for port in ports[1:]:
        # The bus has a port of its own, which must be named with the other's.
        bus = servers.ask(port, "CONFIG", "GET", "cluster-port")["cluster-port"]
        servers.ask(ports[0], "CLUSTER", "MEET", "127.0.0.1", port, bus)
    until(lambda: all("known_nodes:6" in servers.ask(it, "CLUSTER", "INFO") for it in ports))
    for master, replica in zip(masters, replicas, strict=True):
        name = str(servers.ask(master, "CLUSTER", "MYID"))
        until(lambda: servers.ask(replica, "CLUSTER", "REPLICATE", name))  # noqa: B023 - it is asked here and now
    until(lambda: all("state:ok" in servers.ask(it, "CLUSTER", "INFO") for it in ports))
    until(lambda: all("slave0" in servers.ask(it, "INFO", "replication") for it in masters))
    slot = int(servers.ask(ports[0], "CLUSTER", "KEYSLOT", "kn:{t}:quota"))
    address = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
    return address, masters[min(2, slot * 3 // 16384)]


@contextmanager
def fleet(redis_url: str, folder: Path) -> Iterator[tuple[list[str], str]]:
    """Two gateways and the provider that judges them."""
    with ExitStack() as running:
        judge = running.enter_context(
            simulator(folder, "--rpm", str(LIMIT), "--window-s", str(JUDGED_S), "--latency-ms", "50")
        )
        config = f"""
redis_url: {redis_url}
redis: {{timeout: 500ms}}
models:
  m:
    targets:
      - name: t
        provider: gemini
        base_url: {judge}
        api_key: k
        quota: [{{count: requests, limit: {LIMIT}, window: {WINDOW_S}s}}]
"""
        gateways = []
        for name in "ab":
            home = folder / name
            home.mkdir()
            gateways.append(running.enter_context(gateway(config, home)))
        yield gateways, judge


@pytest.mark.timeout(240)
@pytest.mark.parametrize("kind", [sentinels, cluster])
def test_a_master_that_dies_under_load_costs_no_request_and_no_429(
    kind: Callable[[Servers], tuple[str, int]], servers: Servers, tmp_path: Path
) -> None:
    url, master = kind(servers)
    answers: Counter[int] = Counter()
    degraded: Counter[bool] = Counter()

    def ask(address: str) -> None:
        found = requests.post(
            f"{address}/api/v1/generate", json={"prompt": "hello", "timeout_s": 20}, timeout=60
        )
        answers[found.status_code] += 1
        degraded["X-Degraded" in found.headers] += 1

    dice = random.Random(1)
    with fleet(url, tmp_path) as (gateways, judge):
        began, asked, alive = time.monotonic(), 0, True
        with ThreadPoolExecutor(200) as clients:
            while (passed := time.monotonic() - began) < SECONDS:
                if alive and passed > BROKEN_AT:
                    servers.kill(master)
                    alive = False
                clients.submit(ask, gateways[asked % 2])
                asked += 1
                time.sleep(dice.expovariate(0.8 * LIMIT / WINDOW_S))
        spent = requests.get(f"{judge}/_stats", timeout=5).json()
        assert answers == {200: asked}
        assert degraded[True] > 0
        assert degraded[False] > degraded[True]
        assert (spent["accepted"], spent["rejected"]) == (asked, 0)
        for address in gateways:
            ready = requests.get(f"{address}/api/ready", timeout=5).json()
            assert (ready["status"], ready["notes"]) == ("ready", [])
            assert requests.get(f"{address}/api/quota/stats", timeout=5).json()["degraded"] is False
