"""The browser's own cache before a real gateway: headless Chromium, watched through its DevTools protocol."""

from collections.abc import Iterator

import pytest

from bench.processes import Child, Stage
from tests.support.browser import Browser
from tests.support.programs import program

pytestmark = pytest.mark.system

PATH = "/api/v1/topics/light/related?count=3"
CONFIG = """
cache: {{browser_ttl: 1m, keep_warm: false}}
models: {{m: {{targets: [{{name: t, provider: gemini, api_key: k, base_url: "http://127.0.0.1:{sim}"}}]}}}}
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Child]:
    program("chromium")
    with Stage() as stage:
        sim = stage.simulator()
        yield stage.gateway(CONFIG.format(sim=sim.port))


@pytest.fixture(scope="module")
def browser(gateway: Child, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    found = Browser(tmp_path_factory.mktemp("chromium"))
    yield found
    found.close()


def test_a_page_that_asks_again_is_answered_by_the_browser_itself(browser: Browser, gateway: Child) -> None:
    browser.go(f"http://127.0.0.1:{gateway.port}/api/health")
    assert browser.fetch(PATH) == 200
    assert not browser.from_disk(PATH)
    asked = gateway.get("/api/cache/stats")["hits"]
    assert browser.fetch(PATH) == 200
    assert browser.from_disk(PATH)
    assert gateway.get("/api/cache/stats")["hits"] == asked


def test_a_revalidation_is_304_on_the_wire_and_200_on_the_page(browser: Browser, gateway: Child) -> None:
    browser.go(f"http://127.0.0.1:{gateway.port}/api/health")
    browser.fetch(PATH)
    assert browser.fetch(PATH, "no-cache") == 200
    assert browser.on_the_wire() == [304]


def test_a_reload_of_the_document_is_304(browser: Browser, gateway: Child) -> None:
    url = f"http://127.0.0.1:{gateway.port}{PATH}"
    browser.go(url)
    browser.reload()
    assert 304 in browser.on_the_wire()


def test_an_answer_to_a_question_of_ones_own_is_never_kept(browser: Browser, gateway: Child) -> None:
    browser.go(f"http://127.0.0.1:{gateway.port}/api/health")
    for _ in range(2):
        assert browser.fetch("/api/cache/stats") == 200
        assert not browser.from_disk("/api/cache/stats")
