"""Three real gateways, one real Redis and a strict provider, while things break."""

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from bench.ports import free_port
from tests.conftest import start_redis

LIMIT, WINDOW_S = 40, 5
# The judge's window is shorter: on a machine with other work a request may be on its way for longer than any guard.
# Replicas that count each for itself are caught all the same, since they send three times the limit.
JUDGED_S = 3.5
BROKEN_AT, MENDED_AT, SECONDS = 3.0, 6.0, 11.0


class Fleet:
    """The processes, and every answer that their clients got."""

    def __init__(self, folder: Path) -> None:
        self.redis_port, self.sim_port = free_port(), free_port()
        self.redis = start_redis(self.redis_port)
        self.sim = self._start(
            "provider-sim",
            *("--bind", f"127.0.0.1:{self.sim_port}", "--rpm", str(LIMIT), "--window-s", str(JUDGED_S)),
            *("--latency-ms", "100", "--latency-sigma", "0.7", "--tail-p", "0.02"),
        )
        config = folder / "c.yaml"
        config.write_text(f"""
redis_url: redis://127.0.0.1:{self.redis_port}/0
redis: {{timeout: 500ms}}
models:
  m:
    targets:
      - name: t
        provider: gemini
        base_url: http://127.0.0.1:{self.sim_port}
        api_key: k
        quota: [{{count: requests, limit: {LIMIT}, window: {WINDOW_S}s}}]
""")
        self.ports = [free_port() for _ in range(3)]
        self.gateways = [
            self._start("serve", "--config", str(config), "--bind", f"127.0.0.1:{port}")
            for port in self.ports
        ]
        self.answers: Counter[int | str] = Counter()
        self.codes: Counter[str] = Counter()
        try:
            for port in (*self.ports, self.sim_port):
                self._await(port)
        except BaseException:
            self.stop()
            raise

    def _start(self, *args: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "knowalledge.cli", *args]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)

    def _await(self, port: int) -> None:
        # A busy machine may take more than a minute to start five processes.
        until = time.monotonic() + 120
        while time.monotonic() < until:
            try:
                requests.get(f"http://127.0.0.1:{port}/api/health", timeout=5)
                return
            except requests.RequestException:
                time.sleep(0.05)
        raise AssertionError("a process did not start")

    def ask(self, port: int) -> None:
        try:
            found = requests.post(
                f"http://127.0.0.1:{port}/api/v1/generate",
                json={"prompt": "hello", "timeout_s": 6},
                timeout=40,
            )
        except requests.ConnectionError:
            self.answers["connection"] += 1
        else:
            self.answers[found.status_code] += 1
            if found.status_code != 200:
                self.codes[found.json()["code"]] += 1

    def stats(self) -> dict[str, Any]:
        found: dict[str, Any] = requests.get(f"http://127.0.0.1:{self.sim_port}/_stats", timeout=5).json()
        return found

    def stop(self) -> None:
        for process in (*self.gateways, self.sim, self.redis):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in (*self.gateways, self.sim, self.redis):
            process.wait(20)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    found = Fleet(tmp_path)
    yield found
    found.stop()


def kill_a_replica_and_lose_what_redis_holds(fleet: Fleet) -> None:
    fleet.gateways[0].kill()
    fleet.ports.pop(0)
    fleet.redis.kill()
    fleet.redis.wait()
    fleet.redis = start_redis(fleet.redis_port)


def freeze_redis(fleet: Fleet) -> None:
    fleet.redis.send_signal(signal.SIGSTOP)


def thaw_redis(fleet: Fleet) -> None:
    fleet.redis.send_signal(signal.SIGCONT)


@pytest.mark.system
@pytest.mark.timeout(240)
@pytest.mark.parametrize("fault", [kill_a_replica_and_lose_what_redis_holds, freeze_redis])
def test_replicas_spend_one_quota_and_answer_everybody_whatever_breaks(
    fleet: Fleet, fault: Callable[[Fleet], None]
) -> None:
    random.seed(1)
    began = time.monotonic()
    plan = [(BROKEN_AT, fault), (MENDED_AT, thaw_redis), (SECONDS, None)]
    asked = 0
    with ThreadPoolExecutor(200) as clients:
        for until, step in plan:
            while time.monotonic() - began < until:
                clients.submit(fleet.ask, random.choice(fleet.ports))
                asked += 1
                time.sleep(random.expovariate(2 * LIMIT / WINDOW_S))
            if step is not None:
                step(fleet)
    spent = fleet.stats()
    assert sum(fleet.answers.values()) == asked
    assert set(fleet.answers) <= {200, 429, "connection"}
    if fault is freeze_redis:
        assert fleet.answers["connection"] == 0
    assert fleet.answers[200] > LIMIT
    assert spent["rejected"] <= 0.01 * asked
    # Whatever broke, it is over: all replicas that are left share what Redis holds again.
    for port in fleet.ports:
        ready = requests.get(f"http://127.0.0.1:{port}/api/ready", timeout=5).json()
        assert (ready["status"], ready["notes"]) == ("ready", [])
