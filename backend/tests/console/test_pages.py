"""The pages in a real browser before a real gateway: what a person sees, and what never runs."""

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.request import Request, urlopen

import pytest

from bench.processes import Child, Stage
from tests.support.browser import Browser
from tests.support.programs import program

pytestmark = pytest.mark.system

CONFIG = """
cache: {{browser_ttl: 1m, keep_warm: false}}
auth: {{tenant_header: X-Tenant}}
models:
  quick:
    targets: [{{name: quick, provider: gemini, api_key: k, base_url: "http://127.0.0.1:{sim}", quota: {{rpm: 600}}}}]
  scarce:
    targets:
      - name: scarce
        provider: gemini
        api_key: k
        base_url: "http://127.0.0.1:{sim}"
        quota: [{{count: requests, limit: 2, window: 15s}}]
default_model: quick
"""


@pytest.fixture(scope="module")
def gateway() -> Iterator[Child]:
    program("chromium")
    with Stage() as stage:
        yield stage.gateway(CONFIG.format(sim=stage.simulator().port))


@pytest.fixture(scope="module")
def tab(gateway: Child, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    browser.call("Log.enable")
    yield browser
    browser.close()


# Shorthands on the page, which its policy lets a debugger define.
HELPERS = """
window.el = (id) => document.getElementById(id);
window.all = (selector) => [...document.querySelectorAll(selector)].length;
"""


def open_page(tab: Browser, gateway: Child, path: str) -> None:
    tab.go(address(gateway, path))
    tab.evaluate(HELPERS)


def address(gateway: Child, path: str) -> str:
    return f"http://127.0.0.1:{gateway.port}{path}"


def text(tab: Browser, selector: str) -> str:
    return str(tab.evaluate(f"document.querySelector({json.dumps(selector)}).textContent"))


def test_a_person_asks_and_sees_the_answer_and_what_it_cost(tab: Browser, gateway: Child) -> None:
    open_page(tab, gateway, "/")
    tab.wait_for("all('#model option') == 2")
    assert tab.evaluate("el('model').value") == "quick"
    tab.evaluate("el('prompt').value = 'hello there'; el('ask').requestSubmit()")
    tab.wait_for("all('#badges .badge') >= 3")
    assert len(text(tab, "#answer")) > 20
    assert re.search(r"\d+ tokens read, \d+ written", text(tab, "#badges"))
    assert tab.complaints() == []


def test_the_snippet_has_this_address_and_the_chosen_model(tab: Browser, gateway: Child) -> None:
    open_page(tab, gateway, "/")
    tab.wait_for("all('#model option') == 2")
    tab.evaluate("el('model').value = 'scarce'; el('model').dispatchEvent(new Event('change'))")
    assert f"http://127.0.0.1:{gateway.port}/api/v1/generate" in text(tab, "#snippet")
    assert '"scarce"' in text(tab, "#snippet")


def test_who_waits_is_told_the_place_and_the_time(tab: Browser, gateway: Child) -> None:
    for number in range(2):
        gateway_ask(gateway, f"spend {number}", "scarce")
    open_page(tab, gateway, "/")
    tab.wait_for("all('#model option') == 2")
    tab.evaluate("el('model').value = 'scarce'; el('ask').requestSubmit()")
    tab.wait_for("/Place 1 in the queue, about \\d+ (s|min) to go/.test(el('status').textContent)")
    tab.evaluate("el('stop').click()")
    tab.wait_for("el('status').textContent == 'Stopped.'")


def test_a_topic_becomes_a_map_whose_parts_can_be_explained(tab: Browser, gateway: Child) -> None:
    open_page(tab, gateway, "/explore?topic=light&level=general")
    tab.wait_for("all('#map .node') == 9")
    tab.evaluate("document.querySelectorAll('#map .node')[1].click(); el('explain').click()")
    tab.wait_for("all('#detail h3') == 1")
    assert tab.evaluate("document.querySelector('#source .badge').dataset.source") == "miss"
    # Deeper by one part, and back by the browser's own button.
    tab.evaluate("el('deeper').click()")
    tab.wait_for(
        "!location.search.includes('topic=light&') && document.querySelector('#map .centre').textContent != 'light'"
    )
    tab.evaluate("history.back()")
    tab.wait_for("document.querySelector('#map .centre').textContent == 'light' && all('#map .node') == 9")
    tab.wait_for("document.querySelector('#source .badge').dataset.source == 'browser'")
    assert tab.complaints() == []


HOSTILE = "<img src=x onerror=window.ran=1><script>window.ran=1</script>\u202etxt"


def test_a_hostile_topic_is_text(tab: Browser, gateway: Child) -> None:
    open_page(tab, gateway, "/explore")
    tab.evaluate(f"el('topic').value = {json.dumps(HOSTILE)}; el('form').requestSubmit()")
    tab.wait_for("document.querySelector('#map .centre, #map .fault')")
    time.sleep(0.2)
    assert tab.evaluate("window.ran") is None
    assert tab.evaluate("all('main img, main script')") == 0
    assert tab.complaints() == [] or all("400" in it for it in tab.complaints())


def gateway_ask(gateway: Child, prompt: str, model: str, **headers: str) -> None:
    body = json.dumps({"prompt": prompt, "model": model}).encode()
    request = Request(
        address(gateway, "/api/v1/generate"), body, {"Content-Type": "application/json", **headers}
    )
    try:
        urlopen(request, timeout=90).close()
    except OSError:
        pass


def test_the_console_says_which_quota_is_short_and_who_waits(tab: Browser, gateway: Child) -> None:
    for number in range(2):
        gateway_ask(gateway, f"first {number}", "scarce")
    waiting = [
        Thread(
            target=gateway_ask,
            args=(gateway, f"then {number}", "scarce"),
            kwargs={"X-Tenant": "school"},
        )
        for number in range(3)
    ]
    for it in waiting:
        it.start()
    open_page(tab, gateway, "/console")
    tab.wait_for("all('#queue tbody tr') >= 1", 25)
    row = text(tab, "#queue tbody tr")
    assert "scarce" in row
    assert "school" in row
    assert "100%" in text(tab, "#quota")
    assert "short" in text(tab, "#quota")
    assert text(tab, "#live") == "live"
    assert tab.complaints() == []
    for it in waiting:
        it.join()


def test_where_a_key_is_needed_the_page_asks_for_it_and_goes_on(
    tab: Browser, tmp_path: Path, gateway: Child
) -> None:
    with Stage() as stage:
        sim = stage.simulator()
        database = f"auth: {{{{mode: required}}}}\ndatabase_url: sqlite:///{tmp_path}/keys.db\n"
        closed = stage.gateway(
            (CONFIG.replace("auth: {{tenant_header: X-Tenant}}\n", database)).format(sim=sim.port)
        )
        open_page(tab, closed, "/explore?topic=light")
        tab.wait_for("all('#map .fault input') == 1")
        assert "key" in text(tab, "#map .fault").lower()


@pytest.mark.parametrize("path", ["/", "/explore", "/console"])
def test_a_page_is_small_and_asks_no_other_host(tab: Browser, gateway: Child, path: str) -> None:
    tab.call("Network.clearBrowserCache")
    open_page(tab, gateway, path)
    time.sleep(0.5)
    seen = [it["response"] for it in tab._find("Network.responseReceived")]
    assert {it["url"].split("/")[2] for it in seen} == {f"127.0.0.1:{gateway.port}"}
    finished = tab._find("Network.loadingFinished")
    assert 0 < sum(it["encodedDataLength"] for it in finished) < 100_000
    assert tab.complaints() == []


@pytest.mark.parametrize("path", ["/", "/explore?topic=light", "/console"])
def test_a_page_fits_a_phone(tab: Browser, gateway: Child, path: str) -> None:
    size: dict[str, Any] = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    tab.call("Emulation.setDeviceMetricsOverride", **size)
    try:
        open_page(tab, gateway, path)
        time.sleep(0.5)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    finally:
        tab.call("Emulation.clearDeviceMetricsOverride")


def test_programs_get_json_at_the_same_address(gateway: Child) -> None:
    here = gateway.get("/")
    assert here["default_model"] == "quick"
    assert [it["name"] for it in here["models"]] == ["quick", "scarce"]


def test_assets_are_kept_for_good_under_their_digest_and_asked_again_under_another(gateway: Child) -> None:
    with urlopen(Request(address(gateway, "/"), headers={"Accept": "text/html"}), timeout=10) as answer:
        page = answer.read().decode()
    (folder,) = set(re.findall(r"/assets/\w+", page))
    with urlopen(address(gateway, f"{folder}/page.css"), timeout=10) as answer:
        assert "immutable" in answer.headers["Cache-Control"]
    with urlopen(address(gateway, "/assets/0123456789abcdef/page.css"), timeout=10) as answer:
        assert answer.headers["Cache-Control"] == "no-cache"


def test_no_file_of_the_pages_holds_what_the_policy_forbids() -> None:
    static = Path(__file__).parents[2] / "src/knowalledge/console/static"
    for file in static.glob("*.html"):
        assert not re.search(
            r"\son\w+=|<style|\sstyle=|<script(?! type=\"module\" src=)|https?://", file.read_text()
        )
    for file in static.glob("*.js"):
        assert not re.search(
            r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(", file.read_text()
        )
