"""Alerts, the runbook and the dashboards agree; Alertmanager really silences what follows from something else."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import URLError
from urllib.request import Request, urlopen

import pytest
import yaml

from bench.ports import free_port
from tests.support.programs import program

ROOT = Path(__file__).parents[3]
RUNBOOK = (ROOT / "docs/operations/runbook.md").read_text()
RULES: list[dict[str, Any]] = yaml.safe_load((ROOT / "monitoring/prometheus/rules/alerts.yml").read_text())[
    "groups"
][0]["rules"]
DASHBOARDS: dict[str, dict[str, Any]] = yaml.safe_load(
    (ROOT / "monitoring/grafana/dashboards.yaml").read_text()
)
SECTIONS = dict(re.findall(r"^## ([^\n]+)\n(.*?)(?=^## |\Z)", RUNBOOK, re.M | re.S))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_leads_to_its_section_of_the_runbook(rule: dict[str, Any]) -> None:
    name = rule["alert"]
    section = SECTIONS[name]
    assert rule["annotations"]["runbook_url"].endswith(f"/docs/operations/runbook.md#{name.lower()}")
    for part in ("First look", "1. ", "Escalate", "Prevent: "):
        assert part in section, f"{name}: {part}"


def test_each_section_is_an_alert_s_or_an_incident_that_none_tells_of() -> None:
    incidents = {title for title in SECTIONS if " " in title}
    assert set(SECTIONS) - incidents == {rule["alert"] for rule in RULES}
    assert len(incidents) >= 4


def test_commands_of_the_runbook_exist() -> None:
    paths = json.loads((ROOT / "docs/openapi.json").read_text())["paths"]
    commands = (ROOT / "docs/reference/commands.md").read_text()
    for name in re.findall(r"knowalledge ([a-z]+(?: check)?)", RUNBOOK):
        assert f"knowalledge {name}" in commands, name
    called = set(re.findall(r"\$GATEWAY(/[\w/.-]*)", RUNBOOK))
    assert called
    for path in called:
        shapes = [re.sub(r"\{\w+}", "[^/]+", it) for it in paths]
        assert any(re.fullmatch(shape, path) for shape in shapes), path


def test_panels_that_the_runbook_names_exist() -> None:
    titles = {panel["title"] for board in DASHBOARDS.values() for panel in board["panels"]}
    named = set(re.findall(r"\*([A-Z][^*]+)\*", RUNBOOK))
    assert named
    assert named <= titles


def test_each_panel_says_what_good_looks_like_and_lines_are_full() -> None:
    for name, board in DASHBOARDS.items():
        column = 0
        for panel in board["panels"]:
            assert panel["good"].endswith("."), f"{name}: {panel['title']}"
            assert panel.get("detail", name) in DASHBOARDS
            column += panel["width"]
            assert column <= 24, f"{name}: {panel['title']}"
            column %= 24
        assert column == 0, name


class Alertmanager:
    """A real one with the shipped configuration, that is told of alerts."""

    def __init__(self, folder: Path) -> None:
        port = free_port()
        self.url = f"http://127.0.0.1:{port}/api/v2"
        self._process = subprocess.Popen(
            [
                program("prometheus-alertmanager"),
                f"--config.file={ROOT / 'monitoring/alertmanager/alertmanager.yml'}",
                f"--storage.path={folder}",
                f"--web.listen-address=127.0.0.1:{port}",
                "--cluster.listen-address=",
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait(self) -> None:
        for _ in range(200):
            try:
                urlopen(f"{self.url}/status", timeout=5).close()
                return
            except URLError:
                time.sleep(0.05)
        raise RuntimeError("Alertmanager does not answer")

    def tell(self, *alerts: dict[str, str]) -> None:
        body = json.dumps([{"labels": labels} for labels in alerts]).encode()
        request = Request(f"{self.url}/alerts", body, {"content-type": "application/json"})
        urlopen(request, timeout=5).close()

    def silenced(self) -> set[str]:
        """Names, and targets if any, of the alerts that are inhibited, once every alert has been looked at."""
        for _ in range(200):
            with urlopen(f"{self.url}/alerts", timeout=5) as answer:
                alerts = json.load(answer)
            states = {
                " ".join((it["labels"]["alertname"], it["labels"].get("target", ""))).rstrip(): it["status"][
                    "state"
                ]
                for it in alerts
            }
            if "unprocessed" not in states.values():
                return {name for name, state in states.items() if state == "suppressed"}
            time.sleep(0.1)
        raise RuntimeError("Alertmanager looks at no alert")

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(10)


@pytest.fixture
def alertmanager(tmp_path: Path) -> Iterator[Alertmanager]:
    started = Alertmanager(tmp_path)
    try:
        started.wait()
        yield started
    finally:
        started.end()


def labels(name: str, **more: str) -> dict[str, str]:
    (rule,) = (it for it in RULES if it["alert"] == name)
    return {"alertname": name, **rule["labels"], **more}


def test_redis_down_silences_what_follows_from_it_and_nothing_critical(alertmanager: Alertmanager) -> None:
    alertmanager.tell(labels("RedisDown"))
    assert alertmanager.silenced() == set()
    alertmanager.tell(
        labels("CacheHitsFell"), labels("UrgentWait", priority="high"), labels("ProviderFails", target="us")
    )
    assert alertmanager.silenced() == {"CacheHitsFell", "UrgentWait"}


def test_no_replica_silences_everything_else(alertmanager: Alertmanager) -> None:
    alertmanager.tell(labels("GatewayDown"))
    assert alertmanager.silenced() == set()
    alertmanager.tell(labels("RedisDown"), labels("ErrorRate"))
    assert alertmanager.silenced() == {"RedisDown", "ErrorRate"}


def test_a_provider_that_refuses_explains_its_own_learnt_limit_only(alertmanager: Alertmanager) -> None:
    alertmanager.tell(labels("ProviderRefuses", target="us"))
    assert alertmanager.silenced() == set()
    alertmanager.tell(labels("LearntLimitFell", target="eu", window="learnt"))
    assert alertmanager.silenced() == set()
    alertmanager.tell(labels("LearntLimitFell", target="us", window="learnt"))
    assert alertmanager.silenced() == {"LearntLimitFell us"}


@pytest.mark.parametrize(
    ("name", "receiver"), [("RedisDown", "page"), ("ReplicaDown", "ticket"), ("ProviderFails", "page")]
)
def test_severity_decides_who_is_told(name: str, receiver: str) -> None:
    matchers = [f"{key}={value}" for key, value in labels(name).items()]
    file = f"--config.file={ROOT / 'monitoring/alertmanager/alertmanager.yml'}"
    done = subprocess.run(
        [program("amtool"), "config", "routes", "test", file, *matchers],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.stdout.strip() == receiver, done.stderr
