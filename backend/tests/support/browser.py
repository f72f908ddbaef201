"""Headless Chromium, watched and driven through its DevTools protocol."""

import json
import os
import subprocess
import sys
import threading
import time
from base64 import b64decode
from itertools import count
from pathlib import Path
from typing import Any

from tests.support.programs import program

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

    def evaluate(self, expression: str) -> Any:
        """The value of a script's expression on the page; a promise is awaited."""
        answer = self.call("Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def wait_for(self, condition: str, seconds: float = 30) -> None:
        """Until an expression on the page is true."""
        script = f"""new Promise((yes, no) => {{
            const end = Date.now() + {seconds * 1000};
            const holds = () => {{ try {{ return {condition}; }} catch {{ return false; }} }};
            const look = () => holds() ? yes() : Date.now() > end ? no(new Error("never")) : setTimeout(look, 20);
            look();
        }})"""
        answer = self.call("Runtime.evaluate", expression=script, awaitPromise=True)
        assert "exceptionDetails" not in answer, f"never on the page: {condition}"

    def complaints(self) -> list[str]:
        """Errors on the page's console, policy violations included, if ``Log.enable`` was called."""
        logged = [it["entry"] for it in self._find("Log.entryAdded") if it["entry"]["level"] == "error"]
        return [f"{it['source']}: {it['text']}" for it in logged]

    def screenshot(self, path: Path) -> None:
        """The visible part, as PNG."""
        path.write_bytes(b64decode(self.call("Page.captureScreenshot", format="png")["data"]))
