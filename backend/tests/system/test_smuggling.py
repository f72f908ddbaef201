"""No bytes of one caller become another request: directly, and behind nginx as ingress-nginx configures it."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from bench.ports import free_port
from tests.support.programs import program
from tests.system.processes import gateway

pytestmark = [pytest.mark.system, pytest.mark.timeout(120)]

CONFIG = """
models:
  m: {targets: [{name: t, provider: gemini, api_key: k, base_url: "http://127.0.0.1:9"}]}
"""
# What a caller would smuggle: a request that the fronts answer with 404, and that leaves a trace.
HIDDEN = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /api/v1/generate HTTP/1.1\r\nHost: x\r\n"


def sized(head: bytes, body: bytes = HIDDEN, length: int | None = None) -> bytes:
    return head + b"Content-Length: %d\r\n\r\n" % (len(body) if length is None else length) + body


def chunked(body: bytes, head: bytes = POST) -> bytes:
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + body


PIECE = b"%x\r\n%b\r\n" % (len(HIDDEN), HIDDEN)
# Every attempt is at most one request: whatever follows its first answer must not be another.
ATTEMPTS = {
    "upgrade": sized(POST + b"Connection: upgrade\r\nUpgrade: x\r\n"),
    "websocket": sized(POST + b"Connection: Upgrade\r\nUpgrade: websocket\r\n"),
    "h2c": sized(POST + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA\r\n"),
    "upgrade of nothing": sized(
        b"POST /nothing HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n"
    ),
    "upgrade of chunks": chunked(PIECE + b"0\r\n\r\n", POST + b"Connection: upgrade\r\nUpgrade: x\r\n"),
    "two lengths": sized(POST + b"Content-Length: 0\r\n"),
    "length and chunks": chunked(b"0\r\n\r\n" + HIDDEN, POST + b"Content-Length: 5\r\n"),
    "chunks and length": sized(POST + b"Transfer-Encoding: chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "coding with a tab": sized(POST + b"Transfer-Encoding:\tchunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "coding after a space": sized(POST + b"Transfer-Encoding : chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "coding with an underscore": sized(POST + b"Transfer_Encoding: chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "coding in two lines": sized(POST + b"Transfer-Encoding:\r\n chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "coding behind a bare CR": sized(POST + b"X: a\rTransfer-Encoding: chunked\r\n", b"0\r\n\r\n" + HIDDEN),
    "another coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n" + HIDDEN,
    "a coding of HTTP/1.0": chunked(
        b"0\r\n\r\n" + HIDDEN, POST.replace(b"/1.1", b"/1.0") + b"Connection: keep-alive\r\n"
    ),
    "a length with a sign": POST + b"Content-Length: +0\r\n\r\n" + HIDDEN,
    "a length of two values": POST + b"Content-Length: 0, 0\r\n\r\n" + HIDDEN,
    "a malformed chunk": chunked(b"zz\r\n" + HIDDEN),
    "a chunk's length behind a space": chunked(b"0 \r\n\r\n" + HIDDEN),
    "a chunk that is too long": chunked(b"1\r\nab\r\n0\r\n\r\n" + HIDDEN),
    "bare LF after a chunk": chunked(b"1\na\n0\n\n" + HIDDEN),
    "bare LF in an extension": chunked(b"1;\nxx\r\n0\r\n\r\n" + HIDDEN),
    "a malformed trailer": chunked(b"0\r\n" + HIDDEN + HIDDEN),
    "a body in a trailer": chunked(b"0\r\nX: y\r\nGET /metrics HTTP/1.1\r\n\r\n" + HIDDEN),
    "bare LF in the head": POST.replace(b"\r\n", b"\n") + b"Content-Length: 0\n\n" + HIDDEN,
    "no host": b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "two hosts": sized(POST + b"Host: y\r\n"),
    "a body that is too large": sized(POST, HIDDEN, 10**9),
    "a body for nothing": sized(b"POST /nothing HTTP/1.1\r\nHost: x\r\n", HIDDEN, 10**6),
    "a body for a probe": sized(b"GET /api/health HTTP/1.1\r\nHost: x\r\n", HIDDEN, 10**6),
    "a body that is expected": sized(POST + b"Expect: 100-continue\r\n", HIDDEN, 10**9),
    "HTTP/0.9": b"GET /api/health\r\n" + HIDDEN,
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "a tunnel": b"CONNECT x:80 HTTP/1.1\r\nHost: x:80\r\n\r\n" + HIDDEN,
}

# Requests like any other: their connections live on.
SOUND = {
    "upgrade",
    "websocket",
    "h2c",
    "upgrade of nothing",
    "upgrade of chunks",
    "coding with an underscore",
}


def exchange(port: int, sent: bytes, patience_s: float = 3.0) -> bytes:
    """All that comes until the connection ends."""
    received = b""
    with socket.create_connection(("127.0.0.1", port), timeout=patience_s) as client:
        client.sendall(sent)
        try:
            while more := client.recv(65536):
                received += more
        except ConnectionResetError:
            pass
        except TimeoutError:
            received += b"(open)"
    return received


def finals(received: bytes) -> int:
    """How many answers came, interim ones aside."""
    return received.count(b"HTTP/1.1 ") - received.count(b"HTTP/1.1 100 ")


def metrics_served(port: int) -> int:
    """How often somebody was given the metrics, this request aside."""
    text = urlopen(f"http://127.0.0.1:{port}/metrics").read().decode()
    counts = [line for line in text.splitlines() if 'responses_total{route="/metrics",status="200"}' in line]
    return int(float(counts[0].split()[-1])) if counts else 0


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with gateway(CONFIG, tmp_path_factory.mktemp("gateway")) as url:
        yield int(url.rpartition(":")[2])


@pytest.mark.parametrize("name", ATTEMPTS)
def test_after_a_fault_of_framing_there_is_one_answer_and_the_connection_ends(port: int, name: str) -> None:
    received = exchange(port, ATTEMPTS[name])
    if name in SOUND:
        received = received.removesuffix(b"(open)")
    assert finals(received) == 1, received
    assert b"(open)" not in received
    assert b"knowalledge_http" not in received


def test_requests_one_after_the_other_on_a_connection_are_each_answered_once(port: int) -> None:
    post = sized(b"POST /nothing HTTP/1.1\r\nHost: x\r\n", b"{}")
    parts = chunked(b"1\r\na\r\n0\r\nX: y\r\n\r\n", b"POST /nothing HTTP/1.1\r\nHost: x\r\n")
    last = b"GET http://x/api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    received = exchange(port, post * 3 + parts * 3 + last)
    assert (finals(received), received.count(b" 404 ")) == (7, 6)
    assert received.endswith(b'{"status":"ok"}')


def test_a_body_that_is_expected_is_asked_for_and_read(port: int) -> None:
    head = POST + b"Expect: 100-Continue\r\nConnection: close\r\n"
    received = exchange(port, sized(head, b"no json"))
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 400 ")


def test_the_server_as_a_whole_can_be_asked_what_it_does(port: int) -> None:
    received = exchange(port, b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert received.startswith(b"HTTP/1.1 204 ")
    assert b"Allow: GET, HEAD, OPTIONS, POST\r\n" in received


# The directives that ingress-nginx generates for a location, and a Gateway's (keep-alive, no Upgrade header).
INGRESS = """
proxy_set_header Upgrade $http_upgrade;
proxy_set_header Connection $connection_upgrade;
"""
GATEWAY = """
proxy_set_header Connection "";
"""
FRONT = """
daemon off; pid {folder}/pid; error_log {folder}/error.log;
events {{ worker_connections 256; }}
worker_processes 1;
http {{
  access_log off; client_body_temp_path {folder}/a; proxy_temp_path {folder}/b; fastcgi_temp_path {folder}/c;
  uwsgi_temp_path {folder}/d; scgi_temp_path {folder}/e;
  map $http_upgrade $connection_upgrade {{ default upgrade; '' ''; }}
  upstream replica {{ server 127.0.0.1:{port}; keepalive 320; keepalive_requests 10000; keepalive_timeout 60s; }}
  server {{
    listen 127.0.0.1:{front};
    ignore_invalid_headers on; underscores_in_headers off;
    location = /metrics {{ return 404; }}
    location = /api/cache/invalidate {{ return 404; }}
    location / {{
      proxy_pass http://replica; proxy_http_version 1.1; proxy_set_header Host $host;
      proxy_buffering off; proxy_request_buffering {buffering}; proxy_read_timeout 5s;
      {directives}
    }}
  }}
}}
"""


@pytest.mark.parametrize("buffering", ["on", "off"])
@pytest.mark.parametrize("directives", [INGRESS, GATEWAY])
def test_behind_a_front_no_hidden_request_is_served_and_every_neighbour_is_answered(
    port: int, tmp_path: Path, directives: str, buffering: str
) -> None:
    front = free_port()
    conf = tmp_path / "nginx.conf"
    text = FRONT.format(folder=tmp_path, port=port, front=front, directives=directives, buffering=buffering)
    conf.write_text(("user root;" if os.getuid() == 0 else "") + text)
    before = metrics_served(port)
    nginx = subprocess.Popen([program("nginx"), "-c", conf], stderr=subprocess.DEVNULL)
    neighbour = b"GET /api/health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    try:
        for _ in range(100):
            try:
                exchange(front, neighbour)
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        for name, attempt in ATTEMPTS.items():
            received = exchange(front, attempt, 0.3)
            assert b"knowalledge_http" not in received, name
            for _ in range(3):
                assert exchange(front, neighbour).endswith(b'{"status":"ok"}'), name
    finally:
        nginx.send_signal(signal.SIGTERM)
        nginx.wait(10)
    assert metrics_served(port) == before + 1  # the count before
