"""Two `curl -N` that wait for one quota at two replicas see their place and their time count down, then an answer."""

import json
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import pytest
from redis import Redis

from tests.support.programs import program
from tests.system.processes import gateway, simulator

CONFIG = """
redis_url: {redis}
models:
  m:
    targets:
      - name: t
        provider: gemini
        base_url: "{provider}"
        api_key: k
        quota: [{{count: requests, limit: 2, window: {window}s}}]
"""
WINDOW_S, APART_S = 8, 3.0
LATE_S = 2.0  # what a busy machine may add to a time
LITTLE_S = 0.5  # by which a time that is told may rise: it is rounded, and looked up once a second


class Curl:
    """One `curl -N`, and the events that came with the moments at which they came."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.events: list[tuple[float, str, dict[str, Any]]] = []
        self.first = threading.Event()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        name = ""
        assert self.process.stdout is not None
        for line in self.process.stdout:
            kind, _, value = line.rstrip("\n").partition(": ")
            if kind == "event":
                name = value
            elif kind == "data":
                self.events.append((time.monotonic(), name, json.loads(value)))
                self.first.set()

    def ended(self) -> list[tuple[float, str, dict[str, Any]]]:
        assert self.process.wait(60) == 0
        self._reader.join(10)
        return self.events


@contextmanager
def curl(url: str) -> Iterator[Curl]:
    body = json.dumps({"prompt": "why is the sky blue?", "stream": True, "cache": "bypass"})
    command = [program("curl"), "-sN", f"{url}/api/v1/generate", "-d", body]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            found = Curl(process)
            assert found.first.wait(20)
            yield found
        finally:
            process.kill()


def spend(url: str) -> None:
    body = json.dumps({"prompt": "hi", "cache": "bypass"}).encode()
    with urlopen(Request(f"{url}/api/v1/generate", body)) as answer:
        assert answer.status == 200


@pytest.mark.system
@pytest.mark.timeout(120)
def test_place_and_time_count_down_live_until_the_answer(
    tmp_path: Path, redis_client: Redis, redis_url: str
) -> None:
    program("curl")
    folders = [tmp_path / name for name in ("one", "other")]
    for folder in folders:
        folder.mkdir()
    with simulator(tmp_path) as provider:
        config = CONFIG.format(redis=redis_url, provider=provider, window=WINDOW_S)
        with gateway(config, folders[0]) as one, gateway(config, folders[1]) as other:
            spend(one)
            time.sleep(APART_S)
            spend(other)
            with curl(one) as first, curl(other) as second:
                told = [first.ended(), second.ended()]
    for events in told:
        names = [name for _, name, _ in events]
        waits = names.count("queued")
        assert names[:waits] == ["queued"] * waits
        assert names[waits] == "started"
        assert set(names[waits + 1 : -1]) == {"delta"}
        assert names[-1] == "done"
        places = [data for _, _, data in events[:waits]]
        assert len(places) >= 3
        for before, after in pairwise(places):
            assert after["position"] <= before["position"]
            assert after["eta_s"] <= before["eta_s"] + LITTLE_S
        waited = events[waits][0] - events[0][0]
        assert places[0]["eta_s"] == pytest.approx(waited, abs=LATE_S)
        assert events[-1][2]["queue"]["waited_ms"] / 1000 == pytest.approx(waited, abs=LATE_S)
    assert {data["position"] for _, name, data in told[0] if name == "queued"} == {1}
    positions = [data["position"] for _, name, data in told[1] if name == "queued"]
    assert (positions[0], positions[-1]) == (2, 1)
