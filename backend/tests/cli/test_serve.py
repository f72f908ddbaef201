"""What `knowalledge serve` says to a person, and that it ends as it should."""

import json
import os
import pty
import re
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import urlopen

import pytest

from bench.ports import free_port
from tests.system.processes import gateway, simulator

SERVE = [sys.executable, "-m", "knowalledge.cli", "serve"]


# Takes the terminal that it is given as its own, so that Ctrl-C reaches it.
OWN_TERMINAL = (
    "import fcntl, os, sys, termios; os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0);"
    "os.execvp(sys.argv[1], sys.argv[1:])"
)


class Terminal:
    """A command on a terminal of its own."""

    def __init__(self, *command: str) -> None:
        self._fd, inner = pty.openpty()
        wrapped = [sys.executable, "-c", OWN_TERMINAL, *command]
        self._process = subprocess.Popen(wrapped, stdin=inner, stdout=inner, stderr=inner)
        os.close(inner)
        self.seen = ""

    def until(self, text: str) -> str:
        """Everything that was shown until this text."""
        end = time.monotonic() + 60
        while text not in self.seen and time.monotonic() < end:
            if select.select([self._fd], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self._fd, 65536).decode()
                except OSError:
                    break
        assert text in self.seen, self.seen
        return self.seen

    def type(self, keys: str) -> None:
        os.write(self._fd, keys.encode())

    def end(self) -> int:
        """The exit code, when it has ended by itself."""
        while True:
            try:
                data = os.read(self._fd, 65536)
            except OSError:
                data = b""
            if not data:
                break
            self.seen += data.decode()
        os.close(self._fd)
        return self._process.wait(60)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a gateway whose model is a simulated one."""
    folder = tmp_path_factory.mktemp("serve")
    with simulator(folder) as provider:
        file = folder / "gateway.yaml"
        file.write_text(
            f"models: {{fast: {{targets: [{{name: a, provider: openai, base_url: '{provider}/v1'}}]}}}}"
        )
        yield file


@pytest.mark.system
def test_on_a_terminal_it_says_what_to_do_next_and_each_request_is_a_line(config: Path) -> None:
    port = free_port()
    terminal = Terminal(*SERVE, "--config", str(config), "--port", str(port))
    shown = terminal.until("Ctrl-C")
    assert f"knowalledge ready on http://127.0.0.1:{port} (1 worker)" in shown
    assert "fast" in shown
    assert f"http://127.0.0.1:{port}/api/docs" in shown
    (curl,) = re.findall(r"curl [^\r\n]+", shown)
    answer = subprocess.run(shlex.split(curl), capture_output=True, timeout=60, check=True)
    assert json.loads(answer.stdout)["text"]
    line = terminal.until("tokens").splitlines()[-1]
    assert re.search(r"200  POST /api/v1/generate +[\d.]+ s  fast, \d+ \+ \d+ tokens", line)
    assert "a glacier" not in line
    terminal.type("\x03")
    assert terminal.end() == 0
    assert "Traceback" not in terminal.seen
    assert terminal.seen.rstrip().endswith("^C")


@pytest.mark.system
def test_elsewhere_it_says_one_line_and_logs_json(config: Path, tmp_path: Path) -> None:
    port = free_port()
    process = subprocess.Popen(
        [*SERVE, "--config", str(config), "--bind", f"127.0.0.1:{port}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"KNOWALLEDGE_LOG__LEVEL": "debug"},
    )
    assert process.stdout is not None
    assert "ready" in process.stdout.readline()
    body = b'{"prompt": "hello"}'
    with urlopen(f"http://127.0.0.1:{port}/api/v1/generate", body, timeout=60) as answer:
        assert answer.status == 200
    process.send_signal(signal.SIGTERM)
    said, logged = process.communicate(timeout=60)
    assert (said, process.returncode) == ("", 0)
    assert [json.loads(it)["event"] for it in logged.splitlines()] == ["request"]


def refused(*arguments: str) -> str:
    done = subprocess.run([*SERVE, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert "cure: " in done.stderr
    return done.stderr


def test_a_port_that_is_taken_is_told_with_one_that_is_free() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        said = refused("--bind", f"127.0.0.1:{port}")
    assert f"127.0.0.1:{port} cannot be used" in said
    assert re.search(r"--bind 127\.0\.0\.1:\d+", said)


@pytest.mark.parametrize("bind", ["999999", "host:name", "127.0.0.1:70000", "203.0.113.1:8080", "a b:80"])
def test_an_address_that_cannot_be_listened_on_is_a_fault(bind: str) -> None:
    refused("--bind", bind)


@pytest.mark.system
def test_a_shell_with_variables_of_other_programs_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "COLUMNS": "0",
        "FLASK_DEBUG": "1",
        "GUNICORN_CMD_ARGS": "--workers=7 --bind=0.0.0.0:1",
        "KNOWALLEDGE_NET": "10.99.1",
        "KNOWALLEDGE_PORT": "tcp://10.0.0.1:8080",
        "LANG": "C",
        "LC_ALL": "C",
        "PORT": "1",
        "TERM": "dumb",
        "WEB_CONCURRENCY": "9",
        "http_proxy": "http://127.0.0.1:9",
    }.items():
        monkeypatch.setenv(name, value)
    with gateway("", tmp_path) as url:
        monkeypatch.delenv("http_proxy")
        with urlopen(f"{url}/api/health", timeout=60) as answer:
            assert answer.status == 200


@contextmanager
def make(*arguments: str) -> Iterator[str]:
    """What make would run."""
    root = Path(__file__).parents[3]
    done = subprocess.run(
        ["make", "-n", "run", *arguments], cwd=root, capture_output=True, text=True, timeout=60
    )
    yield done.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ((), ["--hints"]),
        (("PORT=9000",), ["--hints", "--port", "9000"]),
        (("BIND=0.0.0.0", "PORT=9"), ["--hints", "--bind", "0.0.0.0", "--port", "9"]),
        (("CONFIG=my models.yaml",), ["--hints", "--config", "my models.yaml"]),
    ],
)
def test_make_run_hands_its_variables_on(arguments: tuple[str, ...], flags: list[str]) -> None:
    with make(*arguments) as line:
        assert shlex.split(line) == ["exec", ".venv/bin/knowalledge", "serve", *flags]


def test_the_simulator_tells_a_port_that_is_taken_without_a_traceback() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        command = [*SERVE[:-1], "provider-sim", "--bind", f"127.0.0.1:{other.getsockname()[1]}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, "Traceback" in done.stderr) == (2, False)
    assert "choose another --bind" in done.stderr
