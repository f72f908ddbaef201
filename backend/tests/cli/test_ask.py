"""`knowalledge ask` and `chat`: the answer as it comes, the wait while it lasts, and a cure where there is none."""

import json
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any, ClassVar

import pytest

from bench.ports import free_port
from tests.cli.test_serve import Terminal
from tests.system.processes import gateway, simulator

DONE = {"id": "i", "model": "fast", "usage": {"input_tokens": 3, "output_tokens": 2}, "finish_reason": "stop"}
ANSWER: list[tuple[str, dict[str, Any]]] = [
    ("started", {}),
    ("delta", {"text": "Ice \x1b[31m"}),
    ("delta", {"text": "moves."}),
    ("done", DONE),
]


class Scripted(BaseHTTPRequestHandler):
    """A gateway that says what it is told, and keeps what it was asked."""

    events: ClassVar[list[tuple[str, dict[str, Any]]]] = ANSWER
    problem: ClassVar[dict[str, Any]] = {}
    asked: ClassVar[list[tuple[str | None, dict[str, Any]]]] = []

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.asked.append((self.headers.get("authorization"), body))
        self.send_response(self.problem.get("status", 200))
        self.end_headers()
        if self.problem:
            self.wfile.write(json.dumps(self.problem).encode())
            return
        self.wfile.write(b": a comment\n\n")
        for name, data in self.events:
            self.wfile.write(f"event: {name}\ndata: {json.dumps(data)}\n\n".encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(Scripted, "asked", [])
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Scripted)
    thread = Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    thread.join()
    httpd.server_close()


def run(*arguments: str, typed: str = "") -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "knowalledge.cli", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, input=typed)


def test_an_answer_goes_to_standard_output_and_nothing_else_does(server: str) -> None:
    done = run(
        "ask", "What", "is", "ice?", "--server", server, "--key", "k", "--model", "fast", "--priority", "low"
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "Ice \x1b[31mmoves.\n", "")
    body = {"prompt": "What is ice?", "model": "fast", "priority": "low", "stream": True}
    assert Scripted.asked == [("Bearer k", body)]


def test_a_terminal_gets_no_control_characters_and_the_cost_below(server: str) -> None:
    terminal = Terminal(sys.executable, "-m", "knowalledge.cli", "ask", "Ice?", "--server", server)
    shown = terminal.until("tokens")
    assert terminal.end() == 0
    assert "Ice [31mmoves." in shown
    assert "fast, 3 + 2 tokens" in terminal.seen


def test_who_waits_sees_the_place_and_the_time(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Scripted, "events", [("queued", {"position": 3, "eta_s": 12.4}), *ANSWER])
    terminal = Terminal(sys.executable, "-m", "knowalledge.cli", "ask", "Ice?", "--server", server)
    assert terminal.end() == 0
    assert "waiting for quota: place 3, about 12 s" in terminal.seen


def test_a_dash_is_what_is_piped_in(server: str) -> None:
    assert run("ask", "Summarize:", "-", "--server", server, typed="long text\n").returncode == 0
    assert run("ask", "--server", server, typed="What is ice?").returncode == 0
    assert [body["prompt"] for _, body in Scripted.asked] == ["Summarize: \n\nlong text", "What is ice?"]
    assert "write a question" in run("ask", "--server", server).stderr


def test_a_program_gets_one_object(server: str) -> None:
    found = json.loads(run("ask", "Ice?", "--server", server, "--json").stdout)
    assert (found["text"], found["model"]) == ("Ice \x1b[31mmoves.", "fast")


@pytest.mark.parametrize(
    ("problem", "cure"),
    [
        ({"status": 401, "code": "unauthorized", "detail": "no key"}, "--key"),
        ({"status": 429, "code": "queue_full", "detail": "full", "retry_after_s": 7}, "again in 7 s"),
        ({"status": 400, "code": "unknown_model", "detail": "no model x"}, "leave --model out"),
        ({"status": 500, "code": "internal", "detail": "oops", "request_id": "abc"}, "request abc"),
        ({"status": 404}, "address of a gateway"),
    ],
)
def test_a_refusal_has_a_cure(
    server: str, monkeypatch: pytest.MonkeyPatch, problem: dict[str, Any], cure: str
) -> None:
    monkeypatch.setattr(Scripted, "problem", problem)
    done = run("ask", "Ice?", "--server", server)
    assert (done.returncode, done.stdout) == (1, "")
    assert cure in done.stderr
    assert json.loads(run("ask", "Ice?", "--server", server, "--json").stdout)["cure"].find(cure) >= 0


def test_an_answer_that_fails_or_ends_early_is_an_error(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    failed = (
        "error",
        {"status": 502, "code": "provider_error", "detail": "the provider failed", "request_id": "r"},
    )
    monkeypatch.setattr(Scripted, "events", [*ANSWER[:2], failed])
    done = run("ask", "Ice?", "--server", server)
    assert (done.returncode, "provider_error" in done.stderr) == (1, True)
    monkeypatch.setattr(Scripted, "events", ANSWER[:2])
    assert "ended early" in run("ask", "Ice?", "--server", server).stderr


@pytest.mark.parametrize("address", ["http://127.0.0.1:PORT", "ftp://h", "http://h:port"])
def test_where_no_gateway_is_the_address_is_named(address: str) -> None:
    done = run("ask", "Ice?", "--server", address.replace("PORT", str(free_port())))
    assert done.returncode in (1, 2)
    assert "--server" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_chat_remembers_until_it_is_told_to_forget(server: str) -> None:
    done = run("chat", "--server", server, "--json", typed="one\ntwo\n/new\nthree\n")
    assert [json.loads(it)["model"] for it in done.stdout.splitlines()] == ["fast"] * 3
    answer = {"role": "assistant", "content": "Ice \x1b[31mmoves."}
    one, two, three = ({"role": "user", "content": it} for it in ("one", "two", "three"))
    assert [body["messages"] for _, body in Scripted.asked] == [[one], [one, answer, two], [three]]


@pytest.mark.system
def test_a_real_gateway_answers_both(tmp_path: Path) -> None:
    with simulator(tmp_path) as provider:
        config = f"models: {{fast: {{targets: [{{name: a, provider: openai, base_url: '{provider}/v1'}}]}}}}"
        with gateway(config, tmp_path) as url:
            asked, talked = (
                run("ask", "Ice?", "--server", url),
                run("chat", "--server", url, typed="Ice?\nWhy?\n"),
            )
    assert (asked.returncode, talked.returncode) == (0, 0), asked.stderr + talked.stderr
    assert asked.stdout.strip()
    assert len(talked.stdout.splitlines()) == 2
