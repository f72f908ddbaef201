"""``knowalledge warm FILE``: ask a running gateway about every topic of a list, so that its caches hold the answers.

Resumable: what is done is written to ``FILE.done`` as it is done, and left out the next time. A gateway that says
"later" (429, 503) is asked again after the time that it names, and so is one that has only a second best answer: that
is none that it keeps.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import requests
from msgspec import Struct

from knowalledge.core.errors import InvalidRequest
from knowalledge.topics.domain import normal

TRIES = 5
LONGEST_WAIT_S = 120.0
TIMEOUT_S = 180.0


class Warmed(Struct, frozen=True):
    """What became of one topic. ``how``: cached (it was there), made, or failed."""

    topic: str
    how: str
    why: str = ""


def topics_of(file: Path) -> tuple[str, ...]:
    """The topics of a list, one a line, each once; empty lines and lines that begin with # are none."""
    lines = (line.strip() for line in file.read_text(encoding="utf-8").splitlines())
    return tuple(dict.fromkeys(line for line in lines if line and not line.startswith("#")))


class Warmer:
    """Asks, and remembers what is done."""

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

    def left(self, topics: tuple[str, ...]) -> tuple[str, ...]:
        """Those that an earlier run has not done."""
        return tuple(it for it in topics if self._mark(it) not in self._done)

    def warm(self, topics: tuple[str, ...]) -> Iterator[Warmed]:
        with self._done_file.open("a", encoding="utf-8") as done:
            for topic in topics:
                found = self._one(topic)
                if found.how != "failed":
                    done.write(self._mark(topic) + "\n")
                    done.flush()
                yield found

    def _mark(self, topic: str) -> str:
        return f"{topic}\t{self._tail}"

    def _one(self, topic: str) -> Warmed:
        try:
            path = f"/api/v1/topics/{quote(normal(topic), safe='')}{self._tail}"
        except InvalidRequest as error:
            return Warmed(topic, "failed", error.message)
        why = ""
        for left in reversed(range(TRIES)):
            try:
                response = self._session.get(self._base + path, timeout=TIMEOUT_S)
            except requests.RequestException as error:
                why, wait = type(error).__name__, 2.0
            else:
                if response.ok and response.headers.get("X-Degraded") == "true":
                    why, wait = "no fresh answer", 2.0
                elif response.ok:
                    story = response.headers.get("Cache-Status", "")
                    return Warmed(topic, "cached" if "; hit" in story else "made")
                else:
                    why, wait = f"status {response.status_code}", _wait(response.headers.get("Retry-After"))
                    if response.status_code < 429 or response.status_code == 431:
                        break
            if left:
                self._sleep(wait)
        return Warmed(topic, "failed", why)


def _wait(field: str | None) -> float:
    return min(LONGEST_WAIT_S, float(field)) if field and field.isdecimal() else 2.0
