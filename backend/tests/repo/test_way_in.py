"""The way into the cluster: both components open the same, and each overlay says what must be changed."""

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.programs import program

ROOT = Path(__file__).parents[3]
K8S = ROOT / "k8s"
GATEWAY_API, NGINX = K8S / "components/gateway-api", K8S / "components/ingress-nginx"
GUIDE = (ROOT / "docs/how-to/deploy.md").read_text()
OVERLAYS = ("staging", "production")
NGINX_CORS = "nginx.ingress.kubernetes.io/cors-"


def objects(path: Path) -> list[dict[str, Any]]:
    return list(yaml.safe_load_all(path.read_text()))


def route() -> dict[str, Any]:
    return next(it for it in objects(GATEWAY_API / "httproute.yaml") if it["metadata"]["name"] == "gateway")


def ingress() -> dict[str, Any]:
    return objects(NGINX / "ingress.yaml")[0]


def test_both_ways_in_open_the_same_paths_and_nothing_that_nginx_hides() -> None:
    opened = {
        (it["path"]["value"], it["path"]["type"].removeprefix("Path"))
        for rule in route()["spec"]["rules"]
        for it in rule["matches"]
    }
    assert opened == {(it["path"], it["pathType"]) for it in ingress()["spec"]["rules"][0]["http"]["paths"]}
    hidden = re.findall(r"location = (/\S+) +\{ return 404", (ROOT / "deploy/nginx/routes.conf").read_text())
    assert hidden
    below = {path + "/" for path, kind in opened if kind == "Prefix"}
    assert not [it for it in hidden if it in {path for path, _ in opened} or it.startswith(tuple(below))]


def test_both_ways_in_tell_browsers_the_same() -> None:
    cors = route()["spec"]["rules"][0]["filters"][0]["cors"]
    annotations = ingress()["metadata"]["annotations"]
    for field, name in (
        ("allowOrigins", "allow-origin"),
        ("allowMethods", "allow-methods"),
        ("allowHeaders", "allow-headers"),
        ("exposeHeaders", "expose-headers"),
    ):
        assert ", ".join(cors[field]) == annotations[NGINX_CORS + name], field
    assert str(cors["maxAge"]) == annotations[NGINX_CORS + "max-age"]


def test_both_ways_in_wait_equally_long_for_a_silent_answer() -> None:
    policy = next(it for it in objects(GATEWAY_API / "policy.yaml") if it["kind"] == "ClientTrafficPolicy")
    idle = policy["spec"]["timeout"]["http"]["streamIdleTimeout"]
    assert (
        idle == ingress()["metadata"]["annotations"]["nginx.ingress.kubernetes.io/proxy-read-timeout"] + "s"
    )
    assert route()["spec"]["rules"][0]["timeouts"] == {"request": "0s"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_leaves_no_example_of_a_component(overlay: str, tmp_path: Path) -> None:
    """A value that only the component names, such as the origin of CORS, would reach production unread."""
    shutil.copytree(K8S, tmp_path / "k8s")
    shutil.copytree(ROOT / "monitoring", tmp_path / "monitoring")
    for path in (tmp_path / "k8s/components").rglob("*.yaml"):
        text = path.read_text().replace("knowalledge.example", "component.invalid")
        path.write_text(text.replace("cluster-issuer: letsencrypt", "cluster-issuer: component.invalid"))
    done = subprocess.run(
        [program("kubectl"), "kustomize", tmp_path / "k8s/overlays" / overlay],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "component.invalid" not in done.stdout


def values_to_change() -> set[str]:
    table = GUIDE.partition("### Every value that must be changed")[2].partition("\n### ")[0]
    return {it for row in table.splitlines() if row.startswith("| `") for it in re.findall(r"`([^`]+)`", row)}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_table_names_every_value_of_an_overlay_that_is_an_example(overlay: str) -> None:
    text = (K8S / "overlays" / overlay / "kustomization.yaml").read_text()
    examples = set(re.findall(r"[\w./:-]*\.example\b|ghcr\.io/[\w/-]+|(?<=value: )letsencrypt", text))
    assert len(examples) >= 4
    assert examples <= values_to_change()


def test_every_file_that_the_table_names_has_its_values() -> None:
    table = GUIDE.partition("### Every value that must be changed")[2].partition("\n### ")[0]
    rows = [it.split(" | ") for it in table.splitlines() if it.startswith("| `")]
    assert len(rows) >= 5
    for values, places, *_ in rows:
        files = [ROOT / it for it in re.findall(r"`([^`]+)`", places)]
        texts = "".join(it.read_text() for it in files)
        for value in re.findall(r"`([^`]+)`", values):
            assert value in texts, value
