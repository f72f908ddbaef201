"""The locks are complete and pinned by hash, so nothing is left to resolve; and nothing installs without one."""

import json
import re
import subprocess
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import Distribution, distributions
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "backend/requirements"
LOCKS = sorted(it.stem for it in FOLDER.glob("*.txt"))
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "backend/pyproject.toml").read_text())
# Where each lock is installed; embedded leaves the dependencies of the model's package out on purpose.
PLACES = {"runtime": ".venv", "dev": ".venv", "build": ".venv", "deploy": ".run/tools", "lock": ".run/lock"}
PLATFORMS = (
    {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"},
    {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix"},
    {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt"},
)


@cache
def entries(lock: str) -> "list[tuple[Requirement, list[str]]]":
    """Each requirement of a lock with its hashes."""
    text = (FOLDER / f"{lock}.txt").read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    return [(Requirement(line.partition(" --hash=")[0]), re.findall(r"--hash=(\S+)", line)) for line in lines]


def held(lock: str, environment: Mapping[str, str]) -> dict[str, str]:
    """The versions that a lock installs on a platform."""
    return {
        canonicalize_name(it.name): next(iter(it.specifier)).version
        for it, _ in entries(lock)
        if it.marker is None or it.marker.evaluate(dict(environment))
    }


def group(name: str) -> Iterator[str]:
    for it in PROJECT["dependency-groups"][name]:
        if isinstance(it, str):
            yield it
        else:
            yield from group(it["include-group"])


def asked(lock: str) -> list[str]:
    """What pyproject.toml asks of a lock."""
    project: list[str] = PROJECT["project"]["dependencies"]
    return (project if lock in {"runtime", "dev"} else []) + ([] if lock == "runtime" else list(group(lock)))


def lacking(
    lock: str, installed: Mapping[str, Distribution], environment: Mapping[str, str]
) -> "tuple[set[str], int]":
    """What installed distributions require there, extras included, beyond the lock; and how many were looked at."""
    pins = held(lock, environment)
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    todo = [("", it) for it in asked(lock)]
    while todo:
        extra, line = todo.pop()
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(wanted.name)
        if not wanted.specifier.contains(pins.get(name, "0"), prereleases=True) or name not in pins:
            missing.add(line)
        for each in {"", *wanted.extras}:
            # What is installed on other platforms only has no metadata here.
            if (name, each) not in seen and name in installed:
                seen.add((name, each))
                todo += [(each, it) for it in installed[name].requires or ()]
    return missing, len(seen)


@pytest.mark.parametrize("lock", LOCKS)
def test_every_requirement_is_pinned_by_version_and_hash_and_names_no_index(lock: str) -> None:
    text = (FOLDER / f"{lock}.txt").read_text()
    assert not re.search(r"://|^-", text, re.M)
    assert entries(lock)
    for wanted, hashes in entries(lock):
        assert re.fullmatch(r"==[^*,]+", str(wanted.specifier)), wanted
        assert wanted.url is None
        assert hashes, wanted
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", it) for it in hashes), wanted


@pytest.mark.parametrize("lock", PLACES)
def test_a_lock_holds_all_that_its_distributions_require_with_their_extras(lock: str) -> None:
    packages = [str(it) for it in (ROOT / PLACES[lock]).glob("lib/python3*/site-packages")]
    if not packages:
        pytest.skip(f"{PLACES[lock]} is not installed (make deploy-tools, make lock)")
    installed = {canonicalize_name(it.name): it for it in distributions(path=packages)}
    for name, version in held(lock, default_environment()).items():  # type: ignore[arg-type]
        assert installed[canonicalize_name(name)].version == version, (
            f"{name} is not the locked one: make setup"
        )
    for minor, platform in product((11, 12, 13, 14), PLATFORMS):
        python = {"python_version": f"3.{minor}", "python_full_version": f"3.{minor}.0"}
        environment = {**default_environment(), **platform, **python}
        missing, looked_at = lacking(lock, installed, environment)  # type: ignore[arg-type]
        assert missing == set(), f"{lock}.txt on {environment}"
        assert looked_at >= len(asked(lock)) // 2


def test_what_is_tested_is_what_is_deployed() -> None:
    environment = default_environment()
    assert held("runtime", environment).items() <= held("dev", environment).items()  # type: ignore[arg-type]
    assert held("build", environment).items() <= held("dev", environment).items()  # type: ignore[arg-type]


def test_the_build_backend_is_the_locked_one_and_the_model_is_that_of_the_extra() -> None:
    assert PROJECT["build-system"]["requires"] == list(group("build"))
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", it) for it in group("build"))
    assert list(group("embedded")) == PROJECT["project"]["optional-dependencies"]["embedded"]


@pytest.mark.parametrize("variables", [[], ["UPGRADE=1"]])
def test_pins_move_only_when_asked_and_by_the_locked_tool(variables: list[str]) -> None:
    command = ["make", "--dry-run", "lock", *variables]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=60)
    compiles = re.findall(r"\S+ pip compile .*", done.stdout)
    assert {re.search(r"requirements/(\S+)\.txt", it)[1] for it in compiles} >= {"runtime", "dev", "embedded"}  # type: ignore[index]
    for it in compiles:
        assert it.startswith("../.run/lock/bin/uv ")
        assert {"--universal", "--generate-hashes", "--no-emit-index-url"} <= set(it.split())
        assert ("--upgrade" in it.split()) == bool(variables)
    assert "backend/tools/setup.py .run/lock backend/requirements/lock.txt" in done.stdout


def tracked(*patterns: str) -> Iterable[Path]:
    command = ["git", "ls-files", *patterns]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    if done.returncode != 0:
        pytest.skip("this is not a git checkout")
    return [ROOT / it for it in done.stdout.split()]


def test_there_is_one_kind_of_lock() -> None:
    """dependabot looks for requirements in .txt files, and takes one with an .in beside it for another tool's."""
    assert tracked("*.lock", "*requirements/*.in") == []


LOCKED = "--no-deps --only-binary=:all: --require-hashes"


def test_no_command_installs_what_no_lock_names() -> None:
    looked_at = 0
    for file in tracked(
        "Makefile", "*.sh", ".ci/run", "*Dockerfile", ".github/workflows/*", ".devcontainer/*"
    ):
        for line in file.read_text().replace("\\\n", " ").splitlines():
            command = " ".join(line.split())
            for installs in re.findall(r"\bpip\b[^|;&]* (?:install|wheel)\b[^|;&]*", command):
                looked_at += 1
                by_lock, by_file = LOCKED in installs, {"--no-deps", "--no-index"} <= set(installs.split())
                assert by_lock or by_file, f"{file}: {command}"
            newest = r"\b(npx|uvx|pipx|uv tool)\b|\bnpm\b.* (install|i|add|exec)\b"
            assert not re.search(newest, command), f"{file}: {command}"
    assert looked_at == 4


def test_every_package_of_npm_has_its_hash() -> None:
    locks = tracked("*package-lock.json")
    assert locks
    for lock in locks:
        packages = json.loads(lock.read_text())["packages"]
        assert all(it["integrity"].startswith("sha512-") for name, it in packages.items() if name), lock
        assert "://" not in re.sub(r'"(url|funding)": .*', "", lock.read_text()), lock
