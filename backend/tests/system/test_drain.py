"""SIGTERM to a real gateway process: what runs is finished, what is idle is closed, and then it is gone."""

import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.ports import free_port
from tests.system.processes import running, simulator

pytestmark = pytest.mark.system


@pytest.fixture
def gateway() -> "Iterator[tuple[subprocess.Popen[str], int]]":
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "knowalledge.cli", "serve", "--bind", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "ready" in process.stdout.readline()
    yield process, port
    if process.poll() is None:
        process.kill()
    process.wait(10)
    process.stdout.close()


def ask(connection: http.client.HTTPConnection) -> http.client.HTTPResponse:
    connection.request("GET", "/api/health")
    response = connection.getresponse()
    response.read()
    return response


def test_an_idle_connection_does_not_delay_the_end(gateway: "tuple[subprocess.Popen[str], int]") -> None:
    process, port = gateway
    connections = [http.client.HTTPConnection("127.0.0.1", port, timeout=10) for _ in range(5)]
    for connection in connections:
        assert ask(connection).status == 200
    began = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(10) == 0
    assert time.monotonic() - began < 6  # server.drain alone is 30 s
    for connection in connections:
        assert connection.sock is not None
        assert connection.sock.recv(1) == b""  # closed, not reset
        connection.close()


def test_a_request_that_comes_on_an_open_connection_while_draining_is_answered(
    gateway: "tuple[subprocess.Popen[str], int]",
) -> None:
    process, port = gateway
    with socket.create_connection(("127.0.0.1", port), timeout=10) as fresh:
        fresh.sendall(b"GET /api/health HTTP/1.1\r\nHost: x\r\n")  # begun, not finished: it is not idle
        other = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        ask(other)  # answered, so the server has taken the one before it too
        other.close()
        process.send_signal(signal.SIGTERM)
        time.sleep(1.5)
        fresh.sendall(b"\r\n")
        answer = b""
        while part := fresh.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 200"), answer
    assert b"connection: close" in answer.lower()
    assert process.wait(10) == 0


WAITERS = """
models:
  m:
    targets:
      - {{name: t, provider: gemini, base_url: "{provider}", api_key: k, quota: {{rpm: 1}}}}
queue: {{timeout: 100s}}
request: {{timeout: 200s}}
"""


def fetch(connection: http.client.HTTPConnection, method: str, path: str, body: object = None) -> Any:
    """The status and the JSON of one exchange on an open connection."""
    connection.request(method, path, None if body is None else json.dumps(body))
    response = connection.getresponse()
    return response.status, json.load(response)


def begun(port: int, path: str) -> socket.socket:
    """A request without its end: its connection is not idle."""
    found = socket.create_connection(("127.0.0.1", port), timeout=10)
    found.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n".encode())
    return found


def finished(connection: socket.socket) -> tuple[int, Any]:
    """The same request's end; its status and JSON."""
    with connection:
        connection.sendall(b"\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()
        return response.status, json.load(response)


def test_whoever_waits_is_sent_away_at_once_it_is_not_ready_and_what_runs_is_finished(tmp_path: Path) -> None:
    port = free_port()
    slow = ("--token-ms", "250", "--output-tokens", "16")
    with simulator(tmp_path, *slow) as provider, ThreadPoolExecutor(1) as pool:
        config = tmp_path / "c.yaml"
        config.write_text(WAITERS.format(provider=provider))
        arguments = ("serve", "--config", str(config), "--bind", f"127.0.0.1:{port}")
        with running("knowalledge.cli", *arguments, log=tmp_path / "gateway.log") as process:
            streaming, waiting, looking = (
                http.client.HTTPConnection("127.0.0.1", port, timeout=60) for _ in range(3)
            )
            streaming.request("POST", "/api/v1/generate", json.dumps({"prompt": "a", "stream": True}))
            stream = streaming.getresponse()
            assert stream.readline() == b"event: started\n"
            readiness, stats = begun(port, "/api/ready"), begun(port, "/api/queue/stats")
            waiter = pool.submit(fetch, waiting, "POST", "/api/v1/generate", {"prompt": "b"})
            until = time.monotonic() + 20
            while not fetch(looking, "GET", "/api/queue/stats")[1]["targets"]["t"]["medium"]["waiting"]:
                assert time.monotonic() < until
            process.send_signal(signal.SIGTERM)
            status, problem = waiter.result(20)
            assert (status, problem["code"]) == (503, "shutting_down")
            status, ready = finished(readiness)
            assert (status, ready["reasons"]) == (503, ["shutting down"])
            level = finished(stats)[1]["targets"]["t"]["medium"]
            assert (level["waiting"], level["left"]["shutting_down"]) == (0, 1)
            assert b"event: done" in stream.read()
            assert process.wait(20) == 0
            for connection in (streaming, waiting, looking):
                connection.close()
