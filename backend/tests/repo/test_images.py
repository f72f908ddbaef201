"""Images are named once, can be held to digests, and what was scanned is what is pushed; dependabot sees all of it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FLOW: dict[str, Any] = yaml.safe_load((ROOT / ".github/workflows/ci-cd.yml").read_text())
BUILD: list[dict[str, Any]] = FLOW["jobs"]["build"]["steps"]
DEPENDABOT = yaml.safe_load((ROOT / ".github/dependabot.yml").read_text())["updates"]
NAMED = re.compile(r"^(?:FROM|.*image:) +([a-z0-9./_-]+:[^\s@]+)(@sha256:[0-9a-f]{64})?(?: |$)", re.M)
# Notes what it is called with, and answers as a registry and an engine do.
DOCKER = """#!/bin/sh
echo "$*" >>"$CALLS"
case "$*" in
  *imagetools*) [ "$6" != "$UNKNOWN" ] && printf 'sha256:%064d' "$(printf %s "$6" | cksum | cut -d' ' -f1)" ;;
  "image inspect"*) echo "python@sha256:$(printf '%064d' 5)"; echo "ghcr.io/x/y@sha256:$(printf '%064d' 6)" ;;
  *" --file - "*) cat >"$CALLS.dockerfile" ;;
esac
"""


def tracked(*patterns: str) -> list[Path]:
    done = subprocess.run(
        ["git", "ls-files", *patterns], cwd=ROOT, capture_output=True, text=True, timeout=30
    )
    if done.returncode != 0:
        pytest.skip("this is not a git checkout")
    return [ROOT / it for it in done.stdout.split()]


def naming_files() -> list[Path]:
    """Every file that names an image of others."""
    return [
        it
        for it in tracked("*Dockerfile", "docker-compose*.yml", "k8s/*.yaml")
        if NAMED.search(it.read_text())
    ]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with the files that name images, their digests taken away, and the scripts that read them."""
    for file in [*naming_files(), *(ROOT / "deploy").glob("*.sh")]:
        copy = tmp_path / file.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, copy)
        if file.suffix != ".sh":
            copy.write_text(re.sub(r"@sha256:[0-9a-f]{64}", "", copy.read_text()))
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True, timeout=30)
    subprocess.run(["git", "add", "."], cwd=tmp_path, check=True, timeout=30)
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text(DOCKER)
    (tmp_path / "bin/docker").chmod(0o755)
    return tmp_path


def run(checkout: Path, script: str, *arguments: str, **environ: str) -> "tuple[int, str]":
    path = f"{checkout / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "HOME": str(checkout), "CALLS": str(checkout / "calls"), **environ}
    done = subprocess.run(
        [checkout / "deploy" / script, *arguments], env=env, capture_output=True, text=True, timeout=60
    )
    return done.returncode, done.stdout


def named(checkout: Path) -> dict[str, set[str]]:
    """Each image of others with the digests that stand beside it."""
    found: dict[str, set[str]] = {}
    for file in naming_files():
        for image, digest in NAMED.findall((checkout / file.relative_to(ROOT)).read_text()):
            found.setdefault(image, set()).add(digest)
    return found


def test_every_image_of_others_is_held_to_one_digest() -> None:
    pinned = named(ROOT)
    assert len(pinned) >= 9
    assert {image for image, digests in pinned.items() if len(digests) != 1 or "" in digests} == set()


def test_the_check_fails_on_each_image_that_a_tag_alone_names(checkout: Path) -> None:
    compose = checkout / "docker-compose.yml"
    compose.write_text(re.sub(r"(image: redis:\S+)", rf"\1@sha256:{'1' * 64}", compose.read_text()))
    code, said = run(checkout, "pins.sh", "check")
    by_tag = {image for image, digests in named(checkout).items() if "" in digests}
    assert code == 1
    assert set(said.partition(" for ")[2].partition(";")[0].split()) == by_tag
    assert any(it.startswith("python:") for it in by_tag)


def test_pins_are_written_beside_every_tag_and_then_the_check_passes(checkout: Path) -> None:
    assert run(checkout, "pins.sh", "write")[0] == 0
    assert run(checkout, "pins.sh", "check") == (0, "")
    after = named(checkout)
    assert len(after) >= 9
    assert all(len(it) == 1 and "" not in it for it in after.values())
    assert len({next(iter(it)) for it in after.values()}) == len(after)
    services = yaml.safe_load((checkout / "docker-compose.yml").read_text())["services"]
    assert re.fullmatch(r"redis:[\w.-]+@sha256:\d{64}", services["redis"]["image"])
    # A second time changes nothing: dependabot moves what is pinned.
    before = {it: (checkout / it.relative_to(ROOT)).read_bytes() for it in naming_files()}
    assert run(checkout, "pins.sh", "write") == (0, "")
    assert before == {it: (checkout / it.relative_to(ROOT)).read_bytes() for it in naming_files()}


def test_a_registry_without_the_image_ends_in_a_failure(checkout: Path) -> None:
    (redis,) = (it for it in named(checkout) if it.startswith("redis:"))
    assert run(checkout, "pins.sh", "write", UNKNOWN=redis)[0] == 1


def test_an_image_is_built_on_the_base_that_is_pinned_and_its_label_says_so(checkout: Path) -> None:
    code, said = run(checkout, "build.sh", VERSION="1.2.3")
    (base,) = (it for it in named(checkout) if it.startswith("python:"))
    digest = f"sha256:{5:064}"
    assert (code, said) == (0, f"image: knowalledge:dev on {base}, digest {digest}\n")
    calls = (checkout / "calls").read_text()
    assert f"pull --quiet {base}" in calls
    for argument in (f"BASE_NAME={base}", f"BASE_DIGEST={digest}", "VERSION=1.2.3"):
        assert f"--build-arg {argument}" in calls
        assert re.search(
            rf"^ARG {argument.partition('=')[0]}=", (ROOT / "backend/Dockerfile").read_text(), re.M
        )
    assert (checkout / "calls.dockerfile").read_text() == (checkout / "backend/Dockerfile").read_text()


def test_where_no_registry_is_an_imitation_of_the_base_has_its_tag_alone(checkout: Path) -> None:
    run(checkout, "pins.sh", "write")
    assert run(checkout, "build.sh", KNOWALLEDGE_LOCAL_ENGINE="1")[0] == 0
    assert "@sha256" in (checkout / "backend/Dockerfile").read_text()
    assert "@sha256" not in (checkout / "calls.dockerfile").read_text()


def test_the_digest_that_is_printed_is_that_of_the_registry_it_was_pushed_to(checkout: Path) -> None:
    assert run(checkout, "push.sh", "sha256:1", "ghcr.io/x/y:tag") == (0, f"sha256:{6:064}\n")
    assert (checkout / "calls").read_text().startswith("tag sha256:1 ghcr.io/x/y:tag\npush ")
    assert run(checkout, "push.sh", "sha256:1", "ghcr.io/other/y:tag")[0] == 1


def place(text: str) -> int:
    """The only step of the build job that holds a text."""
    (number,) = (number for number, step in enumerate(BUILD) if text in json.dumps(step))
    return number


def test_the_image_that_was_scanned_is_the_one_that_is_pushed() -> None:
    scans = [number for number, step in enumerate(BUILD) if "trivy-action" in step.get("uses", "")]
    built, push = place('"id": "built"'), place("make --silent push")
    assert place("make verify-image") + 1 == built
    assert built < scans[0]
    assert scans[-1] < push
    assert {BUILD[it]["with"]["image-ref"] for it in scans} == {"knowalledge:dev"}
    assert "knowalledge:dev" in BUILD[built]["run"]
    assert BUILD[push]["env"] == {"ID": "${{ steps.built.outputs.id }}"}
    # Nothing builds another one in between: what is there is tried as it is.
    assert BUILD[place("make verify-compose")]["env"] == {"KNOWALLEDGE_IMAGE": "knowalledge:dev"}
    assert "build-push-action" not in json.dumps(BUILD)


def test_a_release_asks_for_digests_before_it_builds() -> None:
    check = place("make check-pins")
    assert check < place("make verify-image")
    assert BUILD[check]["if"] == "startsWith(github.ref, 'refs/tags/v')"


def seen(ecosystem: str) -> set[str]:
    """The folders where dependabot looks."""
    return {
        folder
        for it in DEPENDABOT
        if it["package-ecosystem"] == ecosystem
        for folder in it.get("directories", [it.get("directory")])
    }


def folders(files: list[Path]) -> set[str]:
    return {f"/{it.parent.relative_to(ROOT)}".removesuffix(".") for it in files}


def test_dependabot_sees_every_lock_and_every_image() -> None:
    compose = [it for it in naming_files() if it.name.startswith("docker-compose")]
    assert seen("docker-compose") == folders(compose) == {"/"}
    assert seen("docker") == folders([it for it in naming_files() if it not in compose])
    assert seen("npm") == folders(tracked("*package-lock.json"))
    # It reads the folder `requirements` beside a pyproject.toml, in files that end in .txt, up to 500 kB each.
    locks = tracked("*requirements/*")
    assert seen("pip") == {str(Path(it).parent) for it in folders(locks)} == {"/backend"}
    assert all(it.suffix == ".txt" and it.stat().st_size < 500_000 for it in locks)
    assert seen("github-actions") == {"/"}
