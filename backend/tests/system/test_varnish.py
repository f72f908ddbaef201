"""The CDN layer that we ship, in a real Varnish before an origin that does as each test says."""

import http.client
import os
import re
import subprocess
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.support.programs import program
from tests.system.processes import BACKEND

pytestmark = pytest.mark.system

VCL = BACKEND.parent / "deploy/varnish/default.vcl"
FRESH = {
    "Cache-Control": "public, max-age=5, stale-while-revalidate=60",
    "CDN-Cache-Control": "public, max-age=100, stale-while-revalidate=10, stale-if-error=100",
    "Surrogate-Key": "all topic:jazz",
    "Cache-Tag": "all,topic:jazz",
}


class Origin:
    """Answers with what it is told to, and counts."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = dict(FRESH)
        self.status = 200
        self.asked = 0
        self.forwarded = ""  # for whom it was asked last
        origin = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path == "/api/ready":
                    self.send_response(200)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                origin.asked += 1
                origin.forwarded = self.headers["X-Forwarded-For"]
                body = f"answer {origin.asked}".encode()
                self.send_response(origin.status)
                for name, value in origin.headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()


class Cdn:
    """Varnish, asked as a browser asks."""

    def __init__(self, port: int) -> None:
        self.port = port

    def ask(
        self, path: str = "/api/v1/topics/jazz", method: str = "GET", **headers: str
    ) -> "tuple[int, str, dict[str, str]]":
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        connection.request(
            method, path, headers={name.replace("_", "-"): value for name, value in headers.items()}
        )
        response = connection.getresponse()
        found = response.status, response.read().decode(), {k.lower(): v for k, v in response.getheaders()}
        connection.close()
        return found

    def layer(self, **headers: str) -> str:
        return self.ask(**headers)[2]["x-cache"]


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator["tuple[Cdn, Origin]"]:
    varnishd = program("varnishd")
    folder = tmp_path_factory.mktemp("varnish")
    origin, port = Origin(), free_port()
    text = re.sub(r'"backend-\d"; \.port = "8080"', f'"127.0.0.1"; .port = "{origin.port}"', VCL.read_text())
    (folder / "test.vcl").write_text(text)
    for part in (folder, *folder.parents[:3]):
        if part.name.startswith("pytest-"):
            part.chmod(0o755)  # varnishd reads as a user of its own
    folder.chmod(0o755)
    command: list[str | Path] = [
        varnishd,
        "-F",
        "-n",
        folder / "v",
        "-f",
        folder / "test.vcl",
        "-a",
        f"127.0.0.1:{port}",
        "-s",
        "malloc,16m",
    ]
    command += ["-j", "none"] if os.getuid() == 0 else []
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        cdn = Cdn(port)
        for _ in range(400):
            try:
                if cdn.ask("/api/ready")[0] == 200:
                    break
            except OSError:
                assert process.poll() is None, process.stderr.read() if process.stderr else ""
            time.sleep(0.05)
        yield cdn, origin
    finally:
        process.terminate()
        process.communicate(timeout=20)
        origin.server.shutdown()
        origin.server.server_close()


@pytest.fixture
def cdn(running: "tuple[Cdn, Origin]") -> Cdn:
    running[0].ask("/", "PURGE", xkey_purge="all")
    return running[0]


@pytest.fixture
def origin(running: "tuple[Cdn, Origin]") -> Origin:
    running[1].headers, running[1].status, running[1].asked = dict(FRESH), 200, 0
    return running[1]


def test_it_keeps_what_the_targeted_header_says_and_browsers_get_theirs(cdn: Cdn, origin: Origin) -> None:
    assert cdn.layer() == "MISS"
    status, body, headers = cdn.ask()
    assert (status, body, headers["x-cache"]) == (200, "answer 1", "HIT")
    assert headers["cache-control"] == FRESH["Cache-Control"]
    assert "cdn-cache-control" not in headers
    assert "age" not in headers  # a browser's five minutes begin when it gets the answer
    assert re.search(r"varnish; hit; ttl=(9\d|100)", headers["cache-status"])


def test_the_order_of_parameters_and_the_host_name_make_no_second_entry(cdn: Cdn, origin: Origin) -> None:
    cdn.ask("/api/v1/topics/jazz?a=1&b=2")
    assert cdn.ask("/api/v1/topics/jazz?b=2&a=1", Host="elsewhere.example")[2]["x-cache"] == "HIT"


def test_a_tag_takes_back_what_carries_it_and_nothing_else(cdn: Cdn, origin: Origin) -> None:
    cdn.ask()
    origin.headers["Surrogate-Key"] = origin.headers["Cache-Tag"] = "all topic:blues"
    cdn.ask("/api/v1/topics/blues")
    assert cdn.ask("/", "PURGE", xkey_purge="topic:jazz topic:unknown")[1] == '{"purged": 1}'
    assert cdn.ask("/api/v1/topics/blues")[2]["x-cache"] == "HIT"
    assert cdn.layer() == "MISS"


def test_tags_may_come_with_commas_alone(cdn: Cdn, origin: Origin) -> None:
    del origin.headers["Surrogate-Key"]
    cdn.ask()
    assert cdn.ask("/", "PURGE", xkey_purge="topic:jazz")[1] == '{"purged": 1}'


def test_a_soft_purge_serves_the_old_answer_once_more_and_fetches_the_new_one(
    cdn: Cdn, origin: Origin
) -> None:
    cdn.ask()
    cdn.ask("/", "PURGE", xkey_softpurge="topic:jazz")
    assert cdn.ask()[1] == "answer 1"
    for _ in range(500):
        if cdn.ask()[1] == "answer 2":
            break
        time.sleep(0.02)
    assert (cdn.ask()[1], origin.asked) == ("answer 2", 2)


def test_past_its_life_and_its_grace_the_old_answer_serves_only_when_the_origin_fails(
    cdn: Cdn, origin: Origin
) -> None:
    origin.headers["CDN-Cache-Control"] = "max-age=1, stale-while-revalidate=0, stale-if-error=100"
    assert cdn.ask()[1] == "answer 1"
    time.sleep(1.1)
    assert cdn.ask()[1] == "answer 2"  # the origin answers, so nothing old is served
    origin.status = 502
    time.sleep(1.1)
    status, body, headers = cdn.ask()
    assert (status, body, headers["x-cache"]) == (200, "answer 2", "STALE")
    origin.status = 200
    assert cdn.ask()[1] > "answer 3"  # and the failure was not remembered


def test_a_failure_is_not_kept_and_blocks_nobody(cdn: Cdn, origin: Origin) -> None:
    origin.status = 502
    assert cdn.ask("/api/v1/topics/new")[0] == 502
    origin.status = 200
    assert cdn.ask("/api/v1/topics/new")[0] == 200
    assert cdn.ask("/api/v1/topics/new")[2]["x-cache"] == "HIT"


@pytest.mark.parametrize("control", ["private, max-age=60", "no-store", "public, max-age=60, no-cache"])
def test_what_is_one_callers_own_is_never_kept(cdn: Cdn, origin: Origin, control: str) -> None:
    del origin.headers["CDN-Cache-Control"]
    origin.headers["Cache-Control"] = control
    path = "/api/v1/topics/own-" + control[:2]
    assert [cdn.ask(path)[2]["x-cache"] for _ in range(3)] == ["MISS"] * 3


def test_whoever_names_himself_is_answered_by_the_origin(cdn: Cdn, origin: Origin) -> None:
    cdn.ask()
    assert cdn.layer(Authorization="Bearer k") == "MISS"
    assert cdn.layer() == "HIT"


def test_other_routes_are_passed_and_never_kept(cdn: Cdn, origin: Origin) -> None:
    assert [cdn.ask("/api/quota/stats")[1] for _ in range(2)] == ["answer 1", "answer 2"]


def test_the_origin_sees_the_one_address_that_the_proxy_in_front_saw(cdn: Cdn, origin: Origin) -> None:
    cdn.ask("/api/v1/topics/whose", X_Forwarded_For="192.0.2.9")
    assert origin.forwarded == "192.0.2.9"


def test_an_answer_from_the_cache_does_not_carry_another_requests_id(cdn: Cdn, origin: Origin) -> None:
    origin.headers["X-Request-ID"] = "first"
    assert cdn.ask()[2]["x-request-id"] == "first"
    assert "x-request-id" not in cdn.ask()[2]
    assert cdn.ask(X_Request_ID="mine")[2]["x-request-id"] == "mine"
