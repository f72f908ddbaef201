"""``knowalledge warm``: every topic of a list, once, resumed where it stopped."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import requests
from requests.adapters import BaseAdapter

from knowalledge.topics.warmer import Warmer, topics_of


class Gateway(BaseAdapter):
    """Answers by topic: a list of (status, headers), the last one for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[str] = []
        self.script: dict[str, list[tuple[int, dict[str, str]]]] = {}

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        path = str(request.path_url)
        self.asked.append(path)
        assert request.headers["X-Priority"] == "low"
        steps = self.script.get(path, [(200, {})])
        status, headers = steps.pop(0) if len(steps) > 1 else steps[0]
        if status == 0:
            raise requests.ConnectionError
        response = requests.Response()
        response.status_code = status
        response.headers.update(headers)
        response._content = b"{}"
        return response

    def close(self) -> None: ...


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
def slept() -> list[float]:
    return []


Make = Callable[[], Warmer]


@pytest.fixture
def make(tmp_path: Path, gateway: Gateway, slept: list[float]) -> Make:
    (tmp_path / "topics.txt").write_text("# a list\nLight\n\nTCP/IP\n  Light\nb\u00e4ume\n", encoding="utf-8")

    def build() -> Warmer:
        warmer = Warmer("http://g", tmp_path / "topics.txt", "related", "count=3", "", slept.append)
        warmer._session.mount("http://", gateway)
        return warmer

    return build


PATHS = [
    "/api/v1/topics/light/related?count=3",
    "/api/v1/topics/tcp%2Fip/related?count=3",
    "/api/v1/topics/b%C3%A4ume/related?count=3",
]


def run(warmer: Warmer, tmp_path: Path) -> list[str]:
    return [it.how for it in warmer.warm(warmer.pending(topics_of(tmp_path / "topics.txt")))]


def test_every_topic_is_asked_once_and_told_whether_it_was_there(
    make: Make, gateway: Gateway, tmp_path: Path
) -> None:
    gateway.script[PATHS[1]] = [(200, {"Cache-Status": "knowalledge-redis; hit; ttl=9"})]
    assert run(make(), tmp_path) == ["made", "cached", "made"]
    assert gateway.asked == PATHS


def test_a_second_run_asks_only_what_is_left(make: Make, gateway: Gateway, tmp_path: Path) -> None:
    gateway.script[PATHS[1]] = [(502, {})]
    assert run(make(), tmp_path) == ["made", "failed", "made"]
    gateway.asked.clear()
    gateway.script.clear()
    assert run(make(), tmp_path) == ["made"]
    assert gateway.asked == [PATHS[1]]


def test_a_run_that_was_stopped_goes_on_where_it_was(make: Make, gateway: Gateway, tmp_path: Path) -> None:
    warmer = make()
    running = warmer.warm(warmer.pending(topics_of(tmp_path / "topics.txt")))
    next(running)
    running.close()  # type: ignore[attr-defined]
    gateway.asked.clear()
    run(make(), tmp_path)
    assert gateway.asked == PATHS[1:]


def test_later_is_believed_and_a_refusal_is_not_repeated(
    make: Make, gateway: Gateway, tmp_path: Path, slept: list[float]
) -> None:
    gateway.script[PATHS[0]] = [(429, {"Retry-After": "7"}), (0, {}), (503, {}), (200, {})]
    gateway.script[PATHS[1]] = [(400, {})]
    assert run(make(), tmp_path) == ["made", "failed", "made"]
    assert slept == [7.0, 2.0, 2.0]
    assert gateway.asked.count(PATHS[1]) == 1


def test_a_second_best_answer_is_none_that_is_kept(
    make: Make, gateway: Gateway, tmp_path: Path, slept: list[float]
) -> None:
    stale = {"Cache-Status": "knowalledge-redis; hit; detail=stale", "X-Degraded": "true"}
    gateway.script[PATHS[0]] = [(200, stale)]
    gateway.script[PATHS[1]] = [(200, stale), (200, {})]
    assert run(make(), tmp_path) == ["failed", "made", "made"]
    gateway.script.clear()
    assert run(make(), tmp_path) == ["made"]


@pytest.mark.parametrize(
    ("text", "url", "cure"),
    [
        (b"jazz\n\xff", "http://127.0.0.1:1", "is not UTF-8"),
        (b"jazz", "127.0.0.1:8080", "write http://HOST:PORT"),
        (b"jazz", "http://[::1", "write http://HOST:PORT"),
    ],
)
def test_what_cannot_be_warmed_is_told_without_a_trace(
    tmp_path: Path, text: bytes, url: str, cure: str
) -> None:
    file = tmp_path / "topics.txt"
    file.write_bytes(text)
    command = [sys.executable, "-m", "knowalledge.cli", "warm", str(file), "--url", url]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert found.returncode != 0
    assert cure in found.stderr
    assert "Traceback" not in found.stderr


def test_a_place_where_nothing_can_be_noted_is_told_without_a_trace(tmp_path: Path) -> None:
    (tmp_path / "topics.txt").write_text("jazz")
    (tmp_path / "topics.txt.done").mkdir()
    command = [sys.executable, "-m", "knowalledge.cli", "warm", str(tmp_path / "topics.txt")]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert "topics.txt.done cannot be used" in found.stderr
    assert "Traceback" not in found.stderr
