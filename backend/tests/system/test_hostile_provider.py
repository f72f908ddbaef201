"""Thirty answers at once of any size, compression or shape: little memory, a status for each, and the probes answer."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import psutil
import pytest

from bench.ports import free_port
from tests.system.processes import running

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

MB = 1_000_000
CONFIG = """
request: {{timeout: 20s}}
models:
  m: {{targets: [{{name: t, provider: openai, api_key: k, base_url: "http://127.0.0.1:{port}/v1"}}]}}
"""
OK = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def sized(sock: socket.socket) -> None:
    sock.sendall(OK + b"content-length: %d\r\n\r\n" % (100 * MB))
    for _ in range(100):
        sock.sendall(b"[" * MB)


def within_the_bound(sock: socket.socket) -> None:
    sock.sendall(OK + b"content-length: %d\r\n\r\n" % (30 * MB))
    for _ in range(30):
        sock.sendall(b"0" * MB)


def endless(sock: socket.socket) -> None:
    sock.sendall(OK + b"transfer-encoding: chunked\r\n\r\n")
    while True:
        sock.sendall(b"%x\r\n%b\r\n" % (MB, b" " * MB))


BOMB = gzip.compress(b"0" * 200 * MB)


def bomb(sock: socket.socket) -> None:
    sock.sendall(OK + b"content-encoding: gzip\r\ncontent-length: %d\r\n\r\n%b" % (len(BOMB), BOMB))


def one_event(sock: socket.socket) -> None:
    sock.sendall(
        OK.replace(b"application/json", b"text/event-stream") + b"transfer-encoding: chunked\r\n\r\n"
    )
    while True:
        sock.sendall(b"%x\r\n%b\r\n" % (MB, b"data: ".ljust(MB, b"x")))


@contextmanager
def provider(answer: Callable[[socket.socket], None]) -> Iterator[int]:
    """A provider that answers every connection like this."""
    with socket.create_server(("127.0.0.1", 0), backlog=128) as server:

        def serve(sock: socket.socket) -> None:
            with sock:
                try:
                    sock.recv(65536)
                    answer(sock)
                    sock.recv(1)
                except OSError:
                    pass  # the gateway had enough

        def accept() -> None:
            while True:
                try:
                    sock, _ = server.accept()
                except OSError:
                    return
                threading.Thread(target=serve, args=(sock,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]


def status_of(url: str, body: dict[str, object]) -> int:
    try:
        with urlopen(Request(f"{url}/api/v1/generate", json.dumps(body).encode()), timeout=60) as answer:
            answer.read()
            return int(answer.status)
    except HTTPError as error:
        return error.code


@pytest.mark.parametrize("answer", [sized, within_the_bound, endless, bomb, one_event])
def test_thirty_hostile_answers_at_once_take_little_memory(
    tmp_path: Path, answer: Callable[[socket.socket], None]
) -> None:
    port, config = free_port(), tmp_path / "gateway.yaml"
    with provider(answer) as upstream:
        config.write_text(CONFIG.format(port=upstream))
        arguments = ("serve", "--config", str(config), "--bind", f"127.0.0.1:{port}")
        with running("knowalledge.cli", *arguments, log=tmp_path / "gateway.log") as master:
            url, statuses = f"http://127.0.0.1:{port}", []
            assert urlopen(f"{url}/api/health").status == 200
            worker = psutil.Process(master.pid).children()[0]
            streams = answer is one_event

            def ask(number: int) -> None:
                body = {"prompt": f"p{number}", "cache": "bypass", "stream": streams}
                statuses.append(status_of(url, body))

            callers = [threading.Thread(target=ask, args=(number,)) for number in range(30)]
            peak = 0
            for caller in callers:
                caller.start()
            while any(caller.is_alive() for caller in callers):
                assert urlopen(f"{url}/api/health", timeout=10).status == 200
                peak = max(peak, worker.memory_info().rss)
                time.sleep(0.02)
    assert len(statuses) == 30
    assert set(statuses) <= {502, 503, 504}
    assert peak < 250 * MB
