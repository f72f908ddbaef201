"""Set-up installs the locked releases and nothing newer, says what is wrong, and repairs what an earlier try left."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.ports import free_port
from tests.support.package_index import PackageIndex
from tools import setup

ROOT = Path(__file__).parents[3]
SCRIPT = ROOT / "backend/tools/setup.py"
SUPPORTED = (11, 12, 13, 14)
# A release asks for an extra that the lock does not repeat: pip 23 then looks for a newer release that has the extra.
LOCKED = ("google-auth==2.62.2", "google-genai==3.4.0", "requests==2.32.0", "hatchling==1.33.0")
# As much of a build backend as an editable install and a wheel need.
BACKEND = """
from pathlib import Path
from zipfile import ZipFile
ABOUT = "Metadata-Version: 2.1\\nName: example\\nVersion: 1.0\\nSummary: built by {version}\\n"
def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = "example-1.0-py3-none-any.whl"
    with ZipFile(Path(folder) / name, "w") as archive:
        archive.writestr("example.py", "")
        archive.writestr("example-1.0.dist-info/METADATA", ABOUT)
        archive.writestr("example-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\\nTag: py3-none-any")
        archive.writestr("example-1.0.dist-info/RECORD", "")
    return name
build_editable = build_wheel
"""


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> PackageIndex:
    """What the locks name, beside newer releases of all of it that are wrong."""
    index = PackageIndex(tmp_path_factory.mktemp("index"))
    for auth, genai, requests, hatchling in (
        ("2.62.2", "3.4.0", "2.32.0", "1.33.0"),
        ("2.63.0", "99.0", "99.0", "99.0"),
    ):
        index.add("google-auth", auth, extras={"requests": ["requests>=2.20"]})
        index.add("google-genai", genai, requires=["google-auth[requests]>=2.14"])
        index.add("requests", requests)
        index.add("hatchling", hatchling, module=BACKEND.replace("{version}", hatchling))
    return index


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that asks for its build backend with as little precision as it can."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").write_text(
        '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling"\n'
        '[project]\nname = "example"\nversion = "1.0"\n'
    )
    return folder


def python(minor: int) -> str:
    """A Python 3.x of this machine, from PATH or pyenv, that can make environments."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = (sys.executable, shutil.which(f"python3.{minor}"), *versions.glob(f"3.{minor}.*/bin/python"))
    check = f"import ensurepip, sys; sys.exit(sys.version_info[:2] != (3, {minor}))"
    for candidate in named:
        if candidate and subprocess.run([candidate, "-c", check], capture_output=True).returncode == 0:
            return str(candidate)
    pytest.skip(f"there is no Python 3.{minor} with venv here")


def run(environ: dict[str, str], *command: "str | Path") -> "tuple[int, str]":
    """Exit code and output of the set-up script, run by the Python that is named first."""
    interpreter, *arguments = command
    done = subprocess.run(
        [interpreter, SCRIPT, *arguments], env=environ, capture_output=True, text=True, timeout=100
    )
    return done.returncode, done.stdout + done.stderr


def installed(environment: Path) -> dict[str, str]:
    """The version of every distribution in an environment, pip and what it brings aside."""
    (packages,) = environment.glob("lib/python3*/site-packages")
    names = (it.name.removesuffix(".dist-info").rpartition("-") for it in packages.glob("*.dist-info"))
    return {
        name.replace("_", "-"): version for name, _, version in names if name not in {"pip", "setuptools"}
    }


EXPECTED = dict(pin.split("==") for pin in LOCKED)


# -- nothing newer ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("minor", SUPPORTED)
def test_a_newer_release_than_the_locked_one_is_never_taken(
    index: PackageIndex, project: Path, tmp_path: Path, minor: int
) -> None:
    lock, environment = index.lock(tmp_path / "dev.txt", *LOCKED), tmp_path / "venv"
    code, output = run(index.environ(), python(minor), environment, lock, "--editable", project)
    assert code == 0, output
    assert installed(environment) == EXPECTED | {"example": "1.0"}
    (metadata,) = environment.glob("lib/python3*/site-packages/example-1.0.dist-info/METADATA")
    assert "built by 1.33.0" in metadata.read_text()


def test_the_image_takes_nothing_newer_either(index: PackageIndex, project: Path, tmp_path: Path) -> None:
    """The commands of the Dockerfile's first stage, in folders of this test."""
    index.lock(tmp_path / "runtime.txt", *LOCKED[:3])
    index.lock(tmp_path / "build.txt", LOCKED[3])
    shutil.copy(project / "pyproject.toml", tmp_path)
    dockerfile = (ROOT / "backend/Dockerfile").read_text()
    base = re.search(r"^FROM python:3\.(\d+)-slim", dockerfile, re.M)
    assert base is not None
    stage = dockerfile.partition("AS build")[2].partition("\nFROM")[0]
    commands = re.findall(r"^RUN (?:--mount=\S+\s+)?(.*)", stage.replace("\\\n", " "), re.M)
    assert len(commands) == 2
    for command in commands:
        here = command.replace("/opt/", f"{tmp_path}/").replace("/build/", f"{tmp_path}/")
        here = re.sub(r"(?<!\S)python -m", f"{python(int(base[1]))} -m", here)
        done = subprocess.run(
            ["sh", "-ec", here],
            cwd=tmp_path,
            env=index.environ(),
            capture_output=True,
            text=True,
            timeout=100,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    assert installed(tmp_path / "venv") == dict(pin.split("==") for pin in LOCKED[:3]) | {"example": "1.0"}
    assert installed(tmp_path / "tools") == {"hatchling": "1.33.0"}


# -- one environment that each test leaves whole ----------------------------------------------------------------------


class Made:
    """An environment that set-up made, and the command that made it."""

    def __init__(self, index: PackageIndex, folder: Path) -> None:
        self.index = index
        self.folder = folder / "venv"
        self.lock = index.lock(folder / "dev.txt", *LOCKED)

    def again(self, **environ: str) -> "tuple[int, str]":
        return run(self.index.environ() | environ, sys.executable, self.folder, self.lock)

    def is_whole(self) -> bool:
        program: list[str | Path] = [self.folder / "bin/python", "-m", "pip", "check"]
        done = subprocess.run(program, capture_output=True, env=self.index.environ())
        return done.returncode == 0 and installed(self.folder) == EXPECTED


@pytest.fixture(scope="module")
def made(index: PackageIndex, tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(index, tmp_path_factory.mktemp("made"))
    code, output = made.again()
    assert code == 0, output
    return made


def test_a_second_time_does_and_says_nothing_and_needs_no_index(made: Made) -> None:
    before = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*.json")}
    assert made.again(PIP_INDEX_URL=f"http://127.0.0.1:{free_port()}/") == (0, "")
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*.json")} == before


def test_without_a_network_set_up_says_so_in_a_sentence_and_the_next_try_goes_on(made: Made) -> None:
    made.index.lock(made.lock, *LOCKED[:2], "requests==99.0", LOCKED[3])
    code, output = made.again(PIP_INDEX_URL=f"http://127.0.0.1:{free_port()}/", PIP_RETRIES="1")
    assert code == 1
    first, second = output.splitlines()
    assert first.startswith("setup: installing what ")
    assert second.startswith("setup: no package index can be reached (")
    assert made.again()[0] == 0
    assert installed(made.folder)["requests"] == "99.0"
    made.index.lock(made.lock, *LOCKED)
    assert made.again()[0] == 0
    assert made.is_whole()


def test_a_release_without_a_wheel_is_refused_and_not_built_and_the_next_try_begins_anew(
    made: Made, tmp_path: Path
) -> None:
    """A build would ask the index for the newest of what builds it."""
    source = tmp_path / "legacy-1.0"
    source.mkdir()
    (source / "PKG-INFO").write_text("Metadata-Version: 2.1\nName: legacy\nVersion: 1.0\n")
    (source / "setup.py").write_text(f"open({str(tmp_path / 'built')!r}, 'w')\n")
    archive = made.index.folder / "legacy/legacy-1.0.tar.gz"
    archive.parent.mkdir()
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(source, source.name)
    made.index.publish(archive, "legacy==1.0")
    made.index.lock(made.lock, *LOCKED, "legacy==1.0")
    code, output = made.again()
    assert code == 1
    assert "dev.txt could not be installed:" in output
    assert "legacy==1.0" in output
    assert not (tmp_path / "built").exists()
    made.index.lock(made.lock, *LOCKED)
    code, output = made.again()
    assert code == 0, output
    assert "it is made anew" in output
    assert made.is_whole()


def remove_the_python_that_made_it(folder: Path) -> None:
    for link in (folder / "bin").glob("python*"):
        link.unlink()
        link.symlink_to("/nowhere/python")


def remove_pip(folder: Path) -> None:
    (pip,) = folder.glob("lib/python3*/site-packages/pip")
    shutil.rmtree(pip)


def cut_the_stamp(folder: Path) -> None:
    text = (folder / setup.STAMP).read_text()
    (folder / setup.STAMP).write_text(text[: len(text) // 2])


def move(folder: Path) -> None:
    copy = folder.with_name("elsewhere")
    folder.rename(copy)
    shutil.copytree(copy, folder, symlinks=True)
    text = (folder / setup.STAMP).read_text()
    (folder / setup.STAMP).write_text(text.replace(str(folder), str(copy)))


@pytest.mark.parametrize("damage", [remove_the_python_that_made_it, remove_pip, cut_the_stamp, move])
def test_a_broken_environment_is_recognised(
    made: Made, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    copy = tmp_path / "venv"
    shutil.copytree(made.folder, copy, symlinks=True)
    text = (copy / setup.STAMP).read_text()
    (copy / setup.STAMP).write_text(text.replace(str(made.folder), str(copy)))
    assert setup.is_whole(copy)
    damage(copy)
    assert not setup.is_whole(copy)


# -- what is wrong, in a sentence -------------------------------------------------------------------------------------


def pretending(what: str) -> list[str]:
    """A Python that begins with a statement, then runs the script that is named next."""
    return [
        "-c",
        f"import runpy, sys; {what}; sys.argv.pop(0); runpy.run_path(sys.argv[0], run_name='__main__')",
    ]


def refused(interpreter: str, options: list[str], tmp_path: Path) -> str:
    (tmp_path / "dev.txt").touch()
    command: list[str | Path] = [interpreter, *options, SCRIPT, tmp_path / "venv", tmp_path / "dev.txt"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert done.stderr == ""
    assert not (tmp_path / "venv").exists()
    (sentence,) = done.stdout.splitlines()
    return str(sentence)


def test_a_python_that_is_too_old_is_told_which_is_needed(tmp_path: Path) -> None:
    told = refused(sys.executable, pretending("sys.version_info = (3, 10, 2)"), tmp_path)
    assert told.startswith("setup: Python 3.10 (")
    assert told.endswith(" is too old, 3.11 or later is needed: make setup PYTHON=/path/to/python3")


def test_a_real_old_python_can_read_the_script(tmp_path: Path) -> None:
    ast.parse(SCRIPT.read_text(), feature_version=(3, 6))
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    old = [str(it) for minor in range(6, 11) for it in versions.glob(f"3.{minor}.*/bin/python")]
    if not old:
        pytest.skip("there is no Python older than 3.11 here")
    for interpreter in old:
        assert " is too old, 3.11 or later is needed" in refused(interpreter, [], tmp_path)


def test_a_python_without_venv_is_told_which_package_brings_it(tmp_path: Path) -> None:
    told = refused(sys.executable, pretending("sys.modules['ensurepip'] = None"), tmp_path)
    minor = sys.version_info.minor
    assert told.endswith(
        f") has no module ensurepip, on Debian and Ubuntu `apt-get install python3.{minor}-venv` brings it"
    )


def test_make_says_that_there_is_no_python() -> None:
    command = ["make", "--silent", "setup", "PYTHON=/nowhere/python3"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    needed = "Python 3.11 or later is needed: make setup PYTHON=/path/to/python3"
    assert done.stdout == f"setup: no /nowhere/python3 here, {needed}\n"


def test_the_oldest_python_is_the_one_that_the_project_names() -> None:
    project = tomllib.loads((ROOT / "backend/pyproject.toml").read_text())["project"]
    assert project["requires-python"] == ">={}.{}".format(*setup.OLDEST)
