"""A topic through the shipped Varnish: kept by tag, purged by an invalidation, served when the gateway is gone."""

import os
import re
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path

import pytest

from bench.ports import free_port
from bench.processes import Child, Stage
from tests.support.programs import program

pytestmark = pytest.mark.system

VCL = Path(__file__).parents[3] / "deploy" / "varnish" / "default.vcl"
PATH = "/api/v1/topics/light/related?count=3"
CONFIG = """
cache: {{keep_warm: false}}
cdn: {{kind: varnish, url: "http://127.0.0.1:{varnish}"}}
models: {{m: {{targets: [{{name: t, provider: gemini, api_key: k, base_url: "http://127.0.0.1:{sim}"}}]}}}}
"""


class Site:
    """A gateway behind Varnish."""

    def __init__(self, stage: Stage) -> None:
        self.port = free_port()
        sim = stage.simulator()
        self.gateway: Child = stage.gateway(CONFIG.format(varnish=self.port, sim=sim.port))
        text = re.sub(
            r'"backend-\d"; \.port = "8080"', f'"127.0.0.1"; .port = "{self.gateway.port}"', VCL.read_text()
        )
        stage.folder.chmod(0o755)
        (stage.folder / "site.vcl").write_text(text)
        stage.start(
            program("varnishd"), "-F", "-n", str(stage.folder / "varnish"), "-f", str(stage.folder / "site.vcl"),
            "-a", f"127.0.0.1:{self.port}", "-s", "malloc,16m", *(["-j", "none"] if os.getuid() == 0 else []),
        )  # fmt: skip
        stage.wait_listening(self.port)
        end = time.monotonic() + 20
        while self.ask("/api/health")[0] != 200:  # until its probes have seen the gateway
            assert time.monotonic() < end
            time.sleep(0.1)

    def ask(self, path: str = PATH) -> tuple[int, dict[str, str], bytes]:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return response.status, headers, response.read()
        finally:
            connection.close()


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    program("varnishd")
    with Stage() as stage:
        yield Site(stage)


def test_an_invalidation_reaches_the_cdn_and_nothing_else_leaves_it(site: Site) -> None:
    site.ask()
    site.ask("/api/v1/topics/dark/related?count=3")
    assert site.ask()[1]["x-cache"] == "HIT"
    asked = site.gateway.get("/api/cache/stats")["hits"]
    site.ask()
    assert site.gateway.get("/api/cache/stats")["hits"] == asked
    assert site.gateway.post("/api/cache/invalidate", {"pattern": "topic:light"}) == {
        "removed": 1,
        "cdn": "purged",
    }
    again = site.ask()
    assert again[1]["x-cache"] == "MISS"
    assert "knowalledge-memory; fwd=miss" in again[1]["cache-status"]
    assert site.ask("/api/v1/topics/dark/related?count=3")[1]["x-cache"] == "HIT"


def test_everything_at_once_is_purged_by_its_own_tag(site: Site) -> None:
    site.ask()
    assert site.gateway.post("/api/cache/invalidate", {"pattern": "*"})["cdn"] == "purged"
    assert site.ask()[1]["x-cache"] == "MISS"


def test_readers_of_a_hot_topic_notice_nothing_when_the_gateway_dies(site: Site) -> None:
    body = site.ask()[2]
    site.gateway.kill()
    status, headers, found = site.ask()
    assert (status, headers["x-cache"], found) == (200, "HIT", body)
