"""Several workers behind one address: whichever is asked answers for all."""

from pathlib import Path

import psutil
import pytest
import requests

from tests.system.processes import gateway, simulator, until

pytestmark = pytest.mark.system

REQUESTS = 12
CONFIG = """
redis_url: {redis}
models:
  m: {{targets: [{{name: t, provider: gemini, credentials: anonymous, base_url: "{google}"}}]}}
"""


def count(address: str, series: str) -> float:
    """The value of a series, as whichever worker takes this connection says."""
    lines = requests.get(f"{address}/metrics", timeout=10).text.splitlines()
    return sum(float(it.rsplit(" ", 1)[1]) for it in lines if it.startswith(series))


def workers(address: str) -> list[psutil.Process]:
    """The worker processes of a gateway."""
    bind = address.removeprefix("http://")
    (master,) = (it for it in psutil.Process().children() if bind in it.cmdline())
    return master.children()


@pytest.mark.usefixtures("redis_client")
def test_metrics_are_those_of_all_workers(redis_url: str, tmp_path: Path) -> None:
    with (
        simulator(tmp_path) as google,
        gateway(CONFIG.format(redis=redis_url, google=google), tmp_path, workers=2) as address,
    ):
        for number in range(REQUESTS):  # a connection for each, so that both workers get some
            answer = requests.post(f"{address}/api/v1/generate", json={"prompt": f"{number}"}, timeout=10)
            assert answer.status_code == 200
        for _ in range(REQUESTS):
            assert count(address, "knowalledge_requests_total{") == REQUESTS
            assert count(address, "knowalledge_request_seconds_count{") == REQUESTS
        responses = 'knowalledge_http_responses_total{route="/api/v1/generate",status="200"}'
        assert count(address, responses) == REQUESTS
        worker = workers(address)[0]
        worker.terminate()
        psutil.wait_procs([worker], timeout=20)
        until(lambda: len(workers(address)) == 2)
        for _ in range(REQUESTS):
            assert count(address, responses) == REQUESTS
