"""The browser's own cache before a real gateway: headless Chromium, watched through its DevTools protocol."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from bench.processes import Child, Stage
from tests.support.programs import program

pytestmark = pytest.mark.system

PATH = "/api/v1/topics/light/related?count=3"
CONFIG = """
cache: {{browser_ttl: 1m, keep_warm: false}}
models: {{m: {{targets: [{{name: t, provider: gemini, api_key: k, base_url: "http://127.0.0.1:{sim}"}}]}}}}
"""


# Puts the two pipes where the browser looks for them, and becomes the browser.
_DESCRIPTORS = """
import fcntl, os, sys
pipes = [fcntl.fcntl(int(it), fcntl.F_DUPFD, 10) for it in sys.argv[1:3]]
for at, pipe in enumerate(pipes, 3):
    os.dup2(pipe, at)
    os.close(pipe)
os.execv(sys.argv[3], sys.argv[3:])
"""


class Browser:
    """One tab. The protocol goes over two pipes, the third and fourth descriptor of the browser."""

    def __init__(self, folder: Path) -> None:
        chromium = program("chromium")
        theirs, self._out = os.pipe()
        self._in, back = os.pipe()
        flags = [
            "--headless=new", "--remote-debugging-pipe", f"--user-data-dir={folder}", "--no-first-run",
            "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking", "--mute-audio",
            *(["--no-sandbox"] if os.getuid() == 0 else []),
        ]  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-c", _DESCRIPTORS, str(theirs), str(back), chromium, *flags, "about:blank"],
            pass_fds=(theirs, back),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs)
        os.close(back)
        self._ids = count(1)
        self._answers: dict[int, dict[str, Any]] = {}
        self.events: list[dict[str, Any]] = []
        self._news = threading.Condition()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()
        self._session = ""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.call("Network.enable")
        self.call("Page.enable")

    def close(self) -> None:
        self._session = ""
        try:
            self.call("Browser.close")
        except (OSError, AssertionError):
            self._process.kill()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        os.close(self._out)
        self._reader.join(10)
        os.close(self._in)

    def _read(self) -> None:
        data = b""
        while True:
            try:
                more = os.read(self._in, 1 << 20)
            except OSError:
                return
            if not more:
                return
            *whole, data = (data + more).split(b"\0")
            with self._news:
                for text in whole:
                    message = json.loads(text)
                    if "id" in message:
                        self._answers[message["id"]] = message
                    else:
                        self.events.append(message)
                self._news.notify_all()

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        key = next(self._ids)
        message: dict[str, Any] = {"id": key, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._out, json.dumps(message).encode() + b"\0")
        with self._news:
            assert self._news.wait_for(lambda: key in self._answers, 30), f"{method} was not answered"
        answer = self._answers.pop(key)
        assert "error" not in answer, answer
        found: dict[str, Any] = answer["result"]
        return found

    def go(self, url: str) -> None:
        self._loaded(lambda: self.call("Page.navigate", url=url))

    def reload(self) -> None:
        self._loaded(lambda: self.call("Page.reload"))

    def _loaded(self, act: Any) -> None:
        self.events.clear()
        act()
        with self._news:
            assert self._news.wait_for(lambda: self._find("Page.loadEventFired"), 30)

    def fetch(self, path: str, mode: str = "default") -> int:
        """The status that a script on the page sees."""
        self.events.clear()
        script = f"fetch({json.dumps(path)}, {{cache: {json.dumps(mode)}}}).then(r => r.text().then(() => r.status))"
        found = self.call("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)
        return int(found["result"]["value"])

    def _find(self, method: str) -> list[dict[str, Any]]:
        return [it["params"] for it in self.events if it["method"] == method]

    def from_disk(self, path: str) -> bool:
        """Whether the answer came from the browser's own cache."""
        for _ in range(200):
            for it in self._find("Network.responseReceived"):
                if it["response"]["url"].endswith(path):
                    served = [that["requestId"] for that in self._find("Network.requestServedFromCache")]
                    return bool(it["response"]["fromDiskCache"]) or it["requestId"] in served
            time.sleep(0.02)
        raise AssertionError("no response was seen")

    def on_the_wire(self) -> list[int]:
        """The statuses that really came over the network."""
        for _ in range(100):
            found = [it["statusCode"] for it in self._find("Network.responseReceivedExtraInfo")]
            if found:
                return found
            time.sleep(0.02)
        return []


@pytest.fixture(scope="module")
def gateway() -> Iterator[Child]:
    program("chromium")
    with Stage() as stage:
        sim = stage.simulator()
        yield stage.gateway(CONFIG.format(sim=sim.port))


@pytest.fixture(scope="module")
def browser(gateway: Child, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


def test_a_page_that_asks_again_is_answered_by_the_browser_itself(browser: Browser, gateway: Child) -> None:
    browser.go(f"http://127.0.0.1:{gateway.port}/api/health")
    assert browser.fetch(PATH) == 200
    assert not browser.from_disk(PATH)
    asked = gateway.get("/api/cache/stats")["hits"]
    assert browser.fetch(PATH) == 200
    assert browser.from_disk(PATH)
    assert gateway.get("/api/cache/stats")["hits"] == asked


def test_a_revalidation_is_304_on_the_wire_and_200_on_the_page(browser: Browser, gateway: Child) -> None:
    browser.go(f"http://127.0.0.1:{gateway.port}/api/health")
    browser.fetch(PATH)
    assert browser.fetch(PATH, "no-cache") == 200
    assert browser.on_the_wire() == [304]


def test_a_reload_of_the_document_is_304(browser: Browser, gateway: Child) -> None:
    url = f"http://127.0.0.1:{gateway.port}{PATH}"
    browser.go(url)
    browser.reload()
    assert 304 in browser.on_the_wire()


def test_an_answer_to_a_question_of_ones_own_is_never_kept(browser: Browser, gateway: Child) -> None:
    browser.go(f"http://127.0.0.1:{gateway.port}/api/health")
    for _ in range(2):
        assert browser.fetch("/api/cache/stats") == 200
        assert not browser.from_disk("/api/cache/stats")
