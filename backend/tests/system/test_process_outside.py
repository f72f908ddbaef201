"""What surrounds a serving process cannot stop it: nobody reads its log, the disk is full, a terminal interrupts it."""

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest

from bench.ports import free_port
from tests.system.processes import BACKEND

pytestmark = [pytest.mark.system, pytest.mark.timeout(90)]

CONFIG = """
models:
  m: {targets: [{name: t, provider: gemini, api_key: k, base_url: "http://127.0.0.1:9"}]}
"""
SECRET_TOPIC = "a-topic-that-nobody-may-see"


def command(folder: Path, bind: str) -> list[str]:
    config = folder / "gateway.yaml"
    config.write_text(CONFIG)
    return [sys.executable, "-m", "knowalledge.cli", "serve", "--config", str(config), "--bind", bind]


ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join([str(BACKEND / "src"), str(BACKEND)])}


@contextmanager
def serving(folder: Path, stderr: Any) -> Iterator["tuple[subprocess.Popen[str], str]"]:
    port = free_port()
    process = subprocess.Popen(
        command(folder, f"127.0.0.1:{port}"),
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=ENVIRONMENT,
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout is not None
        assert "ready" in process.stdout.readline()
        yield process, f"http://127.0.0.1:{port}"
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(10)
        assert process.stdout is not None
        process.stdout.close()


def status_of(url: str, body: bytes | None = None) -> int:
    try:
        with urlopen(Request(url, body), timeout=10) as answer:
            return int(answer.status)
    except HTTPError as error:
        return error.code


def dropped(url: str) -> float:
    lines = urlopen(f"{url}/metrics").read().decode().splitlines()
    return float(next(it for it in lines if it.startswith("knowalledge_log_lines_dropped_total")).split()[-1])


def log_much(url: str) -> None:
    """More than a pipe holds: each failed request is a line."""
    for number in range(400):
        assert status_of(f"{url}/api/v1/generate", json.dumps({"prompt": f"p{number}"}).encode()) in (
            502,
            503,
        )


@pytest.mark.parametrize("broken", ["nobody reads", "nobody listens", "the disk is full"])
def test_a_log_that_cannot_be_written_fails_no_request_and_is_counted(tmp_path: Path, broken: str) -> None:
    reader, writer = os.pipe()
    if broken == "the disk is full":
        os.close(writer)
        writer = os.open("/dev/full", os.O_WRONLY)
    if broken == "nobody listens":
        os.close(reader)
    with serving(tmp_path, writer) as (_, url):
        os.close(writer)
        log_much(url)
        assert status_of(f"{url}/api/ready") == 200
        assert dropped(url) > 0
        if broken != "nobody listens":
            os.close(reader)


def test_every_line_on_standard_error_is_bounded_json_without_what_a_caller_sent(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file, serving(tmp_path, file) as (process, url):
        port = int(url.rpartition(":")[2])
        for sent in (
            b"GET /%b\r\n\r\n" % SECRET_TOPIC.encode(),
            b"GET /%b HTTP/1.1\r\nbad header %b\r\n\r\n" % (SECRET_TOPIC.encode(), SECRET_TOPIC.encode()),
            b"\x16\x03\x01" + SECRET_TOPIC.encode() + b"\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as client:
                client.sendall(sent)
                assert client.recv(65536).startswith(b"HTTP/1.1 400 ")
        assert status_of(f"{url}/api/v1/topics/{SECRET_TOPIC}") >= 400
        assert status_of(f"{url}/api/v1/generate", SECRET_TOPIC.encode()) == 400
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    lines = log.read_bytes().splitlines()
    assert [json.loads(it)["event"] for it in lines].count("the server refused a request") == 3
    assert SECRET_TOPIC.encode() not in log.read_bytes()
    assert all(len(it) < 4096 for it in lines)


def test_an_interrupt_from_the_terminal_ends_without_a_word(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with log.open("wb") as file, serving(tmp_path, file) as (process, url):
        assert status_of(f"{url}/api/health") == 200
        os.killpg(process.pid, signal.SIGINT)
        assert process.stdout is not None
        assert process.stdout.read() == ""
        process.wait(20)
    assert log.read_bytes() == b""
