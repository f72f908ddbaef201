"""Three replicas behind the nginx that we ship, two hundred live streams, and a rolling restart: nobody notices.

Both tests ask the same stack: a restart leaves it as it was.
"""

import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.support.programs import program
from tests.system.processes import BACKEND

pytestmark = [pytest.mark.system, pytest.mark.timeout(180)]

SHIPPED = BACKEND.parent / "deploy/nginx"
STREAMS = 200
QUOTAS = {"roomy": {"rpm": 1_000_000}, "tight": [{"count": "requests", "limit": 3, "window": "4s"}]}
TOKENS, TOKEN_S = 12, 0.25  # a stream lives three seconds


def python(*arguments: str) -> "subprocess.Popen[bytes]":
    """A process of this checkout, whatever the environment of the tests says."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(BACKEND / "src"), str(BACKEND)])}
    return subprocess.Popen([sys.executable, "-m", *arguments], stdout=subprocess.DEVNULL, env=environment)


def wait_for(port: int, path: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(600):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=2)
        try:
            connection.request("GET", path)
            if connection.getresponse().status == 200:
                return
        except OSError:
            assert process.poll() is None, "it ended before it was ready"
        finally:
            connection.close()
        time.sleep(0.05)
    raise AssertionError(f"nobody answers on {port}")


class Stack:
    """The provider, three replicas and nginx, as processes."""

    def __init__(self, folder: Path, redis_url: str) -> None:
        self.folder = folder
        self.ports = [free_port() for _ in range(3)]
        self.provider_port = free_port()
        self.port = free_port()
        self.replicas: list[subprocess.Popen[bytes]] = []
        self.others: list[subprocess.Popen[bytes]] = []
        models = {
            name: {
                "targets": [
                    {
                        "name": name,
                        "provider": "gemini",
                        "api_key": "k",
                        "base_url": f"http://127.0.0.1:{self.provider_port}",
                        "quota": quota,
                    }
                ]
            }
            for name, quota in QUOTAS.items()
        }
        (folder / "gateway.json").write_text(
            json.dumps({"redis_url": redis_url, "log": {"level": "error"}, "models": models})
        )

    def start(self) -> None:
        pace = ["--token-ms", str(TOKEN_S * 1000), "--output-tokens", str(TOKENS)]
        self.others.append(
            python("knowalledge_simulator", "--bind", f"127.0.0.1:{self.provider_port}", *pace)
        )
        self.replicas = [self.replica(port) for port in self.ports]
        for port, process in zip(self.ports, self.replicas, strict=True):
            wait_for(port, "/api/ready", process)
        self.others.append(self.nginx())
        wait_for(self.port, "/api/ready", self.others[-1])

    def replica(self, port: int) -> "subprocess.Popen[bytes]":
        config = str(self.folder / "gateway.json")
        return python("knowalledge.cli", "serve", "--config", config, "--bind", f"127.0.0.1:{port}")

    def nginx(self) -> "subprocess.Popen[bytes]":
        """The shipped configuration; only addresses and the place of temporary files are this test's."""
        conf = self.folder / "nginx"
        shutil.copytree(SHIPPED, conf)
        for name, changes in {
            "nginx.conf": (("listen 8080;", f"listen 127.0.0.1:{self.port};"), ("/tmp/", f"{self.folder}/")),
            "upstreams.conf": (
                ("varnish:6081", f"127.0.0.1:{self.ports[0]}"),
                *((f"backend-{n}:8080", f"127.0.0.1:{port}") for n, port in enumerate(self.ports, 1)),
            ),
        }.items():
            text = (conf / name).read_text()
            for old, new in changes:
                assert old in text
                text = text.replace(old, new)
            (conf / name).write_text(text)
        main = "daemon off;" + (" user root;" if os.getuid() == 0 else "")  # the folder is this user's alone
        return subprocess.Popen(
            [program("nginx"), "-c", conf / "nginx.conf", "-g", main],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def restart(self, index: int) -> float:
        """SIGTERM, wait for the end, start anew, wait until ready. Answers the seconds until the end."""
        began = time.monotonic()
        self.replicas[index].send_signal(signal.SIGTERM)
        assert self.replicas[index].wait(40) == 0
        took = time.monotonic() - began
        self.replicas[index] = self.replica(self.ports[index])
        wait_for(self.ports[index], "/api/ready", self.replicas[index])
        return took

    def stop(self) -> None:
        for process in (*self.others[::-1], *self.replicas):
            if process.poll() is None:
                process.send_signal(signal.SIGQUIT if process in self.others[1:] else signal.SIGKILL)
        for process in (*self.others, *self.replicas):
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(5)


class Callers:
    """Threads that ask again and again until they are told to stop, and what became of each request."""

    def __init__(self, port: int, model: str) -> None:
        self.port, self.model = port, model
        self.done = threading.Event()
        self.live = 0
        self.finished = 0
        self.answered = 0
        self.faults: list[str] = []
        self.lock = threading.Lock()

    def ask(self, body: dict[str, object]) -> "tuple[http.client.HTTPConnection, http.client.HTTPResponse]":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request(
            "POST", "/api/v1/generate", json.dumps({"model": self.model, "cache": "bypass", **body})
        )
        return connection, connection.getresponse()

    def stream(self) -> None:
        connection, response = self.ask({"prompt": "a stream", "stream": True})
        with self.lock:
            self.live += 1
        try:
            text = (
                response.read().decode() if response.status != 200 else "".join(map(bytes.decode, response))
            )
            if response.status != 200 or text.count("event: delta") != TOKENS or "event: done" not in text:
                self.faults.append(f"stream {response.status}: {text[-300:]}")
            self.finished += 1
        finally:
            with self.lock:
                self.live -= 1
            connection.close()

    def unary(self) -> None:
        connection, response = self.ask({"prompt": "[[out=1]]"})
        text = response.read()
        if response.status != 200:
            self.faults.append(f"{response.status}: {text[:300]!r}")
        self.answered += 1
        connection.close()
        time.sleep(0.05)

    def run(self, once: "str") -> None:
        while not self.done.is_set():
            try:
                getattr(self, once)()
            except (OSError, http.client.HTTPException) as error:
                self.faults.append(f"{once}: {error!r}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_port: int) -> Iterator[Stack]:
    program("nginx")
    found = Stack(tmp_path_factory.mktemp("stack"), f"redis://127.0.0.1:{redis_port}/0")
    try:
        found.start()
        yield found
    finally:
        found.stop()


def test_a_rolling_restart_fails_no_request_and_cuts_no_stream(stack: Stack) -> None:
    callers = Callers(stack.port, "roomy")
    threads = [
        threading.Thread(target=callers.run, args=(kind,)) for kind in ["stream"] * STREAMS + ["unary"] * 4
    ]
    for thread in threads:
        thread.start()
        time.sleep(0.01)  # spread over the stream's life, so that each restart meets streams of every age
    try:
        live = []
        for index in range(3):
            for _ in range(200):
                if callers.live >= STREAMS * 0.95:
                    break
                time.sleep(0.05)
            live.append(callers.live)
            stack.restart(index)
    finally:
        callers.done.set()
        for thread in threads:
            thread.join(60)
    assert callers.faults == []
    assert min(live) >= STREAMS * 0.95, live
    assert callers.finished > 2 * STREAMS
    assert callers.answered > 50


def test_whoever_waits_for_quota_in_a_replica_that_ends_is_answered_by_another(stack: Stack) -> None:
    callers = Callers(stack.port, "tight")
    threads = [
        threading.Thread(target=callers.unary) for _ in range(9)
    ]  # most have to wait, in three replicas
    for thread in threads:
        thread.start()
    time.sleep(1.5)
    waiting = len(threads) - callers.answered
    stack.restart(0)
    for thread in threads:
        thread.join(60)
    assert waiting >= 4
    assert callers.faults == []
    assert callers.answered == len(threads)
