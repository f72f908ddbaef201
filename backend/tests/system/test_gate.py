"""A provider that has named a time is asked nothing before it, though Redis restarts and holds nothing."""

import json
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import pytest
from redis import Redis

from bench.ports import free_port
from tests.conftest import start_redis
from tests.system.processes import gateway, simulator, until

# The provider's window is long, so that what it names is far from over when a slow machine has done all this.
NAMED_S = 600
CONFIG = """
redis_url: redis://127.0.0.1:{redis}/0
models:
  m:
    targets:
      - name: t
        provider: gemini
        base_url: "{provider}"
        api_key: k
        quota: [{{count: requests, limit: 1000, window: 60s}}]
"""


def ask(url: str) -> int:
    body = json.dumps({"prompt": "hi", "cache": "bypass", "timeout_s": 5}).encode()
    try:
        with urlopen(Request(f"{url}/api/v1/generate", body)) as answer:
            return int(answer.status)
    except HTTPError as error:
        error.close()
        return error.code


def read(url: str) -> Any:
    with urlopen(url) as answer:
        return json.load(answer)


def gate(redis_port: int) -> list[bytes | None]:
    """Its end, in microseconds, and the window that the provider named."""
    with Redis(port=redis_port) as redis:
        found: list[bytes | None] = redis.hmget("kn:{t}:quota", "g", "gw")
        return found


@pytest.mark.system
def test_a_restart_of_redis_opens_no_gate_that_the_provider_has_closed(tmp_path: Path) -> None:
    port = free_port()
    with ExitStack() as running:
        redis = start_redis(port)
        running.callback(lambda: (redis.kill(), redis.wait(10)))
        provider = running.enter_context(simulator(tmp_path, "--rpm", "2", "--window-s", str(NAMED_S)))
        urls = []
        for name in "ab":
            (tmp_path / name).mkdir()
            config = CONFIG.format(redis=port, provider=provider)
            urls.append(running.enter_context(gateway(config, tmp_path / name)))

        def notes() -> list[list[str]]:
            return [read(f"{url}/api/ready")["notes"] for url in urls]

        assert [ask(url) for url in urls] == [200, 200]
        assert ask(urls[0]) == 429  # the provider says so
        told = gate(port)
        assert told[1]
        redis.kill()
        redis.wait()
        until(lambda: all(notes()))
        redis = start_redis(port)
        until(lambda: gate(port)[0])
        until(lambda: not any(notes()))
        assert [ask(url) for url in urls] == [429, 429]  # and now nobody had to ask it
        spent = read(f"{provider}/_stats")
        assert (spent["accepted"], spent["rejected"]) == (2, 1)
        brought = gate(port)
        assert brought[1] == told[1]
        assert brought[0] is not None
        assert told[0] is not None
        assert abs(int(brought[0]) - int(told[0])) < 2_000_000
