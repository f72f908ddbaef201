"""Whatever works in the background outlives an error: one is injected into each, as the code names them."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.conftest import start_redis
from tests.system.processes import BACKEND

SOURCE = BACKEND / "src" / "knowalledge"
# Greenlets that end with one request, one connection or one command: each has a caller that waits for it or is told.
SHORT_LIVED = {
    "caching/singleflight/memory.py": "a flight: whatever error ends it goes to those who wait",
    "caching/singleflight/redis.py": "a lease's renewal: ends with its flight, and asks Redis through the breaker",
    "cli/doctor.py": "a check: its command waits for it",
    "gateway/api/streaming.py": "a read of a stream: its error is the stream's",
    "providers/credentials.py": "a renewal: its error goes to those who wait, and the next call renews again",
    "net/wsgi_server.py": "a drain: once, when the server closes",
    "server.py": "a drain: once, when the process ends",
}
CONFIG = """
redis_url: redis://127.0.0.1:{port}/0
redis: {{timeout: 400ms}}
cache: {{keep_warm: true}}
database_url: sqlite:///{folder}/k.db
auth: {{mode: required}}
models:
  m: {{targets: [{{name: t, provider: gemini, api_key: k,
       quota: [{{count: requests, limit: 1, window: 1s}}]}}]}}
"""


def calls(*names: str) -> dict[str, list[ast.Call]]:
    """Calls of functions or methods with these names, by file."""
    found: dict[str, list[ast.Call]] = {}
    for file in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call):
                called = node.func
                name = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
                if name in names:
                    found.setdefault(str(file.relative_to(SOURCE)), []).append(node)
    return found


def named_work() -> set[str]:
    """The name of everything that the code starts in the background."""
    by_file = calls("Task", "repeat", "complete")
    first = [call.args[0] for of_file in by_file.values() for call in of_file if call.args]
    return {it.value for it in first if isinstance(it, ast.Constant) and isinstance(it.value, str)}


def test_greenlets_are_started_by_the_supervisor_or_end_with_what_they_serve() -> None:
    started = calls("spawn", "spawn_later", "spawn_raw", "Greenlet", "Thread", "start_new_thread")
    assert set(started) - {"core/supervision.py"} == set(SHORT_LIVED)


@pytest.mark.timeout(120)
def test_an_error_in_any_background_work_ends_none_of_it(tmp_path: Path) -> None:
    config, port = tmp_path / "gateway.yaml", free_port()
    config.write_text(CONFIG.format(port=port, folder=tmp_path))
    redis = start_redis(port)
    try:
        path = os.pathsep.join([str(BACKEND / "src"), str(BACKEND)])
        done = subprocess.run(
            [sys.executable, "-m", "tests.system.faulty", str(config), str(redis.pid)],
            capture_output=True,
            text=True,
            timeout=100,
            env=os.environ | {"PYTHONPATH": path},
            check=False,
        )
    finally:
        redis.kill()
        redis.wait(5)
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert set(result["injected"]) == named_work()
    assert {"quota.listen", "quota.heartbeat", "quota.write"} <= set(result["running"])
    assert result["failing"] == []
    assert result["reserved"] == [0]
