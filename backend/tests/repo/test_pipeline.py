"""The pipeline calls what exists, with no more rights than it names; the documents do too."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support import programs

ROOT = Path(__file__).resolve().parents[3]
TEXT = (ROOT / ".github/workflows/ci-cd.yml").read_text()
FLOW: dict[Any, Any] = yaml.safe_load(TEXT)
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
TARGETS = set(re.findall(r"^([a-z][a-z0-9-]*):", (ROOT / "Makefile").read_text(), re.M))
DOCS = sorted([ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "deploy").rglob("*.sh")])


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_make_target_that_a_workflow_calls_exists(workflow: Path) -> None:
    called = set(re.findall(r"(?:run: |\$\()make (?:--silent )?([a-z0-9-]+)", workflow.read_text()))
    assert called
    assert called <= TARGETS


def test_the_pipeline_calls_what_its_stages_are_named_for() -> None:
    assert {"lint", "test", "verify-image", "release"} <= set(re.findall(r"run: make ([a-z0-9-]+)", TEXT))


def test_make_alone_lists_every_target_with_a_sentence() -> None:
    done = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    listed = dict(line.split(maxsplit=1) for line in done.stdout.splitlines())
    assert set(listed) == TARGETS
    assert all(re.fullmatch(r"[A-Z].+\.", it) for it in listed.values())
    phony = re.findall(r"^\.PHONY: (.*)", (ROOT / "Makefile").read_text(), re.M)
    assert set(" ".join(phony).split()) == TARGETS


@pytest.mark.parametrize("document", DOCS, ids=lambda path: path.name)
def test_every_make_target_that_a_document_names_exists(document: Path) -> None:
    assert set(re.findall(r"`make ([a-z0-9-]+)|^make ([a-z0-9-]+)", document.read_text(), re.M)) <= {
        pair for target in TARGETS for pair in ((target, ""), ("", target))
    }


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_every_action_is_pinned_by_commit_and_names_its_version(workflow: Path) -> None:
    used = re.findall(r"uses: (\S+)(.*)", workflow.read_text())
    assert used
    for action, comment in used:
        assert re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", action), action
        assert re.fullmatch(r" # v[\d.]+", comment), action


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_a_job_has_no_right_that_it_does_not_name_and_ends_in_time(workflow: Path) -> None:
    flow = yaml.safe_load(workflow.read_text())
    assert flow["permissions"] == {}
    for name, job in flow["jobs"].items():
        assert "permissions" in job, name
        assert job["timeout-minutes"] <= 60, name
        assert re.fullmatch(r"ubuntu-\d\d\.\d\d", job["runs-on"]), name


def test_only_the_jobs_that_report_and_publish_may_write() -> None:
    writers = {name for name, job in FLOW["jobs"].items() if "write" in job["permissions"].values()}
    assert writers == {"security", "build"}


def test_a_bare_clone_is_set_up_every_week_on_every_python_and_without_a_cache() -> None:
    weekly = (ROOT / ".github/workflows/weekly.yml").read_text()
    assert re.search(r'cron: "\d+ \d+ \* \* \d"', weekly)
    (job,) = yaml.safe_load(weekly)["jobs"].values()
    assert job["strategy"]["matrix"] == FLOW["jobs"]["test"]["strategy"]["matrix"]
    assert 'make verify-setup TARGETS="setup lint test"' in weekly
    assert "cache" not in [key for step in job["steps"] for key in step.get("with", ())]
    script = (ROOT / "deploy/verify/setup.sh").read_text()
    assert "--bare" in script
    assert "PIP_NO_CACHE_DIR=1" in script


def test_the_stages_come_in_order_and_production_asks() -> None:
    jobs = FLOW["jobs"]
    assert list(jobs) == ["lint", "test", "security", "build", "staging", "production"]
    assert jobs["build"]["needs"] == ["lint", "test", "security"]
    assert jobs["staging"]["needs"] == "build"
    assert jobs["production"]["needs"] == ["build", "staging"]
    assert jobs["production"]["environment"]["name"] == "production"
    assert jobs["test"]["strategy"]["matrix"]["python"] == ["3.11", "3.12", "3.13", "3.14"]


KUBECTL = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  kustomize*) echo "kind: List"; cat "$2/kustomization.yaml" ;;
  *"get deployment"*revision*) echo 7 ;;
  *"get deployment"*template*) if [ -e "$CALLS.applied" ] && [ -z "$SAME" ]; then echo new; else echo old; fi ;;
  *apply*) cp "${5}" "$CALLS.applied" ;;
esac
"""
CURL = """#!/bin/sh
while [ $# -gt 0 ]; do case "$1" in -D) echo "X-Request-ID: 1" >"$2" ;; esac; shift; done
printf '%s' "$STATUS"
"""
IMAGE = "ghcr.io/x/knowalledge@sha256:" + "0" * 64


def release(tmp_path: Path, status: str, image: str = IMAGE, same: str = "") -> "tuple[int, list[str]]":
    """deploy/release.sh with a kubectl and a curl that only take note."""
    for name, text in (("kubectl", KUBECTL), ("curl", CURL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    calls = tmp_path / "calls"
    calls.touch()
    environ = {"PATH": f"{tmp_path}:/usr/bin:/bin", "CALLS": str(calls), "STATUS": status, "SAME": same}
    command: list[str | Path] = [ROOT / "deploy/release.sh", "staging", image, "https://staging.example"]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60)
    return done.returncode, calls.read_text().splitlines()


def test_a_release_that_answers_stays(tmp_path: Path) -> None:
    code, calls = release(tmp_path, "200")
    assert code == 0
    assert not any("undo" in call for call in calls)
    assert (
        f"newName: ghcr.io/x/knowalledge, digest: {IMAGE.split('@')[1]}"
        in (tmp_path / "calls.applied").read_text()
    )


def test_a_release_that_does_not_answer_is_taken_back(tmp_path: Path) -> None:
    code, calls = release(tmp_path, "503")
    assert code == 1
    assert calls[-2:] == [
        "--namespace knowalledge-staging rollout undo deployment/gateway --to-revision=7",
        "--namespace knowalledge-staging rollout status deployment/gateway --timeout=20m",
    ]


def test_a_release_that_changed_nothing_takes_no_earlier_one_back(tmp_path: Path) -> None:
    code, calls = release(tmp_path, "503", same="yes")
    assert code == 1
    assert not any("undo" in call for call in calls)


def test_a_release_by_tag_is_refused(tmp_path: Path) -> None:
    code, calls = release(tmp_path, "200", "ghcr.io/x/knowalledge:latest")
    assert code == 2
    assert calls == []


def test_every_program_that_tests_run_is_installed_on_a_fresh_machine() -> None:
    listed = (ROOT / ".ci/programs.sh").read_text()
    assert {"nginx", "varnishd", "promtool", "node", "chromium"} <= set(programs.DEBIAN)
    for name, package in programs.DEBIAN.items():
        # Debian's kubectl is too old for our overlays; GitHub's runners bring a new one.
        if name != "kubectl":
            assert re.search(rf"\b{name}(:| >/dev/null .*=\(){package}\b", listed), name


def test_the_programs_come_from_one_list_and_only_from_it() -> None:
    callers = [
        ".ci/run",
        ".github/workflows/ci-cd.yml",
        ".github/workflows/weekly.yml",
        ".devcontainer/Dockerfile",
    ]
    for caller in callers:
        text = (ROOT / caller).read_text()
        assert "programs.sh" in text, caller
        assert "apt-get" not in text, caller


def test_a_devcontainer_sets_up_as_everybody_does_on_the_python_of_the_image() -> None:
    container = json.loads((ROOT / ".devcontainer/devcontainer.json").read_text())
    assert container["postCreateCommand"] == "make setup"
    base = re.compile(r"^FROM (\S+)", re.M)
    image, own = ((ROOT / it / "Dockerfile").read_text() for it in ("backend", ".devcontainer"))
    assert base.findall(own) == base.findall(image)[:1]
