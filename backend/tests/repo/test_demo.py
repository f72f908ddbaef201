"""`make demo`: what it says before it starts, what it leaves behind, and who visits."""

import importlib.util
import json
import socket
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from knowalledge.core.context import Priority
from knowalledge.topics.images import recognise

ROOT = Path(__file__).parents[3]
START = ROOT / "deploy/demo/start.sh"
# An engine of which each word can be told to fail; it writes down what it was asked.
DOCKER = """#!/bin/sh
echo "$*" >>"$LOG"
case " $* " in
  " info "*) exit ${INFO:-0} ;;
  " compose version "*) exit ${PLUGIN:-0} ;;
  *" port "*) echo "127.0.0.1:1$(echo "$*" | tr -dc 0-9)" ;;
  *" up "*) exit ${UP:-0} ;;
esac
"""


def started(folder: Path, **env: Any) -> "subprocess.CompletedProcess[str]":
    """The script with a stub of the engine; ``DOCKER=""`` leaves the stub out."""
    binaries = folder / "bin"
    binaries.mkdir()
    if env.pop("docker", True):
        (binaries / "docker").write_text(DOCKER)
        (binaries / "docker").chmod(0o755)
    for name in ("bash", "env", "sh", "dirname", "cat", "tr"):
        (binaries / name).symlink_to(
            Path("/bin") / name if Path("/bin", name).exists() else f"/usr/bin/{name}"
        )
    ports = {
        f"{it}_PORT": str(free_port()) for it in ("KNOWALLEDGE", "GRAFANA", "PROMETHEUS", "ALERTMANAGER")
    }
    log = {"PATH": str(binaries), "LOG": str(folder / "log"), "HOME": str(folder)}
    return subprocess.run(
        [START], env={**ports, **log, **env}, capture_output=True, text=True, timeout=60, check=False
    )


def free_port() -> int:
    with socket.socket() as it:
        it.bind(("127.0.0.1", 0))
        return int(it.getsockname()[1])


def calls(folder: Path) -> str:
    log = folder / "log"
    return log.read_text() if log.exists() else ""


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"docker": False}, "Docker is not installed"),
        ({"INFO": "1"}, "the Docker engine does not answer"),
        ({"PLUGIN": "1"}, "compose plugin is not installed"),
    ],
)
def test_what_is_missing_is_said_before_anything_starts(
    env: dict[str, Any], said: str, tmp_path: Path
) -> None:
    done = started(tmp_path, **env)
    assert done.returncode == 1
    assert said in done.stderr
    assert " up " not in calls(tmp_path)


def test_a_taken_port_is_named_with_the_variable_that_moves_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        done = started(tmp_path, GRAFANA_PORT=str(port))
    assert done.returncode == 1
    assert f"port {port} is taken" in done.stderr
    assert "GRAFANA_PORT=" in done.stderr
    assert " up " not in calls(tmp_path)


def test_a_start_that_fails_leaves_nothing(tmp_path: Path) -> None:
    done = started(tmp_path, UP="1")
    assert done.returncode == 1
    assert "stopped and removed" in done.stderr
    assert "down --volumes --remove-orphans" in calls(tmp_path)


def test_the_printed_addresses_are_those_of_the_containers(tmp_path: Path) -> None:
    done = started(tmp_path)
    assert done.returncode == 0, done.stderr
    for port in ("18080", "13000", "19090", "19093"):
        assert f"http://127.0.0.1:{port}" in done.stdout


def visitors() -> ModuleType:
    spec = importlib.util.spec_from_file_location("visitors", ROOT / "deploy/demo/visitors.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_visitors_come_with_every_level_and_two_tenants_for_every_kind_of_answer() -> None:
    module = visitors()
    visits = [module.next_visit() for _ in range(1000)]
    assert {it[3]["X-Priority"] for it in visits if "X-Priority" in it[3]} == {it.label for it in Priority}
    assert len({it[3]["X-Tenant"] for it in visits if "X-Tenant" in it[3]}) == 2
    paths = {it[1].partition("?")[0] for it in visits}
    assert "/api/v1/generate" in paths
    assert "/api/v1/topics/from-image" in paths
    assert any(it.endswith("/quiz") for it in paths)
    asked = [json.loads(it[2]) for it in visits if it[1] == "/api/v1/generate"]
    kept = [it["prompt"] for it in asked if it.get("temperature") == 0]
    assert len(set(kept)) < len(kept) / 4  # so the caches have something to do
    models = yaml.safe_load((ROOT / "deploy/config/demo.yaml").read_text())["models"]
    assert {it["model"] for it in asked if "model" in it} <= set(models)


def test_a_visitors_picture_is_one_that_the_gateway_reads() -> None:
    assert recognise(visitors().png(3)).mime == "image/png"


def test_usual_model_names_answer_in_the_demo() -> None:
    models = yaml.safe_load((ROOT / "deploy/config/demo.yaml").read_text())["models"]
    assert {"gpt-4o-mini", "gpt-4o", "gemini-2.5-flash", "gemini-2.5-pro"} <= set(models)
