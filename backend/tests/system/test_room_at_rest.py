"""A waiting room with nobody in it costs Redis nothing but heartbeats."""

import json
import time
from pathlib import Path
from urllib.request import Request, urlopen

import pytest
from redis import Redis

from knowalledge.quota.redis import HEARTBEAT_S
from tests.system.processes import gateway, simulator

CONFIG = """
redis_url: {redis}
models:
  m:
    targets:
      - name: rest
        provider: gemini
        base_url: "{provider}"
        api_key: k
        quota: [{{count: requests, limit: 1, window: 1s}}]
"""
SECONDS = 3 * HEARTBEAT_S


def ask(url: str) -> int:
    body = json.dumps({"prompt": "hi", "cache": "bypass"}).encode()
    with urlopen(Request(f"{url}/api/v1/generate", body), timeout=30) as answer:
        return int(json.load(answer)["queue"]["position"])


@pytest.mark.system
def test_a_room_that_nobody_is_in_any_more_is_silent_but_for_heartbeats(
    tmp_path: Path, redis_client: Redis, redis_url: str
) -> None:
    with (
        simulator(tmp_path) as provider,
        gateway(CONFIG.format(redis=redis_url, provider=provider), tmp_path) as url,
    ):
        assert max(ask(url) for _ in range(3)) == 1  # somebody has waited
        time.sleep(HEARTBEAT_S)
        redis_client.config_resetstat()
        time.sleep(SECONDS)
        stats = redis_client.info("commandstats")
    # Every script of the quota and the room writes its windows back with one HSET; a heartbeat has one ZADD besides.
    beats, scripts = (stats.get(f"cmdstat_{it}", {"calls": 0})["calls"] for it in ("zadd", "hset"))
    assert 1 <= beats <= SECONDS / HEARTBEAT_S + 1
    assert scripts == beats
    assert "cmdstat_publish" not in stats
