"""Connections whose packets are dropped: nothing is closed, and nobody says that they are lost."""

import json
import os
import subprocess
import sys

from redis import Redis

from tests.system.processes import BACKEND


def test_a_silent_subscription_is_opened_anew_and_costs_no_grant(
    redis_port: int, redis_client: Redis
) -> None:
    path = os.pathsep.join([str(BACKEND / "src"), str(BACKEND)])
    done = subprocess.run(
        [sys.executable, "-m", "tests.system.silent", str(redis_port)],
        capture_output=True,
        text=True,
        timeout=100,
        env=os.environ | {"PYTHONPATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.splitlines()[-1]) == {"lost": True, "heard": 1, "degraded": False}
