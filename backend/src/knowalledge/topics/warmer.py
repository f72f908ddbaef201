"""``knowalledge warm FILE``: request every topic of a list from a running gateway, so that its caches hold them.

Resumable: each topic is written to ``FILE.done`` when it is cached, and skipped the next time. 429 and 503 are retried
after ``Retry-After``, and so is a degraded document, because the gateway does not cache it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import requests
from msgspec import Struct

from knowalledge.core.errors import InvalidRequest
from knowalledge.topics.domain import normalize_topic

MAX_ATTEMPTS = 5
MAX_WAIT_S = 120.0
TIMEOUT_S = 180.0


class WarmResult(Struct, frozen=True):
    """The outcome of one topic. ``how``: cached (it was there), made, or failed; ``why``: of a failure."""

    topic: str
    how: str
    why: str = ""


def topics_of(file: Path) -> tuple[str, ...]:
    """The topics of a file, one a line, without duplicates, empty lines and lines that begin with ``#``."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


class Warmer:
    """Requests topics and records which are done."""

    def __init__(
        self, url: str, file: Path, view: str, query: str, key: str, sleep: Callable[[float], None]
    ) -> None:
        self._base = url.rstrip("/")
        self._tail = ("" if view == "whole" else f"/{view}") + (f"?{query}" if query else "")
        self._done_file = file.with_name(file.name + ".done")
        self._sleep = sleep
        self._session = requests.Session()
        self._session.headers["X-Priority"] = "low"
        if key:
            self._session.headers["Authorization"] = f"Bearer {key}"
        done = self._done_file.read_text(encoding="utf-8") if self._done_file.exists() else ""
        self._done = set(done.splitlines())

    def pending(self, topics: tuple[str, ...]) -> tuple[str, ...]:
        """The topics that no earlier run has cached."""
        return tuple(it for it in topics if self._mark(it) not in self._done)

    def warm(self, topics: tuple[str, ...]) -> Iterator[WarmResult]:
        """Request the topics one after another; yields each result."""
        with self._done_file.open("a", encoding="utf-8") as done:
            for topic in topics:
                result = self._request(topic)
                if result.how != "failed":
                    done.write(self._mark(topic) + "\n")
                    done.flush()
                yield result

    def _mark(self, topic: str) -> str:
        return f"{topic}\t{self._tail}"

    def _request(self, topic: str) -> WarmResult:
        try:
            path = f"/api/v1/topics/{quote(normalize_topic(topic), safe='')}{self._tail}"
        except InvalidRequest as error:
            return WarmResult(topic, "failed", error.message)
        why = ""
        for attempts_left in reversed(range(MAX_ATTEMPTS)):
            try:
                response = self._session.get(self._base + path, timeout=TIMEOUT_S)
            except requests.RequestException as error:
                why, wait = type(error).__name__, 2.0
            else:
                if response.ok and response.headers.get("X-Degraded") == "true":
                    why, wait = "no fresh answer", 2.0
                elif response.ok:
                    cache_status = response.headers.get("Cache-Status", "")
                    return WarmResult(topic, "cached" if "; hit" in cache_status else "made")
                else:
                    why, wait = f"status {response.status_code}", _wait(response.headers.get("Retry-After"))
                    if response.status_code < 429 or response.status_code == 431:
                        break
            if attempts_left:
                self._sleep(wait)
        return WarmResult(topic, "failed", why)


def _wait(field: str | None) -> float:
    return min(MAX_WAIT_S, float(field)) if field and field.isdecimal() else 2.0
