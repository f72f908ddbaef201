"""SIGTERM to a real gateway process: what runs is finished, what is idle is closed, and then it is gone."""

import http.client
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from tests.conftest import free_port

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
