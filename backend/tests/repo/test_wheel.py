"""The wheel has everything that the source tree has, and runs without it."""

import re
import subprocess
from importlib.metadata import version
from pathlib import Path
from zipfile import ZipFile

import pytest

from knowalledge import __version__
from tools import wheel

ROOT = Path(__file__).parents[3]
CONFIG = """
models:
  m: {targets: [{name: a, provider: gemini, api_key: k, quota: {rpm: 10}}]}
"""


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return wheel.build(tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def folder(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``bin`` of an environment where only the wheel is installed."""
    return wheel.install(built, tmp_path_factory.mktemp("wheel"))


def run(folder: Path, *command: str) -> str:
    done = subprocess.run(
        [folder / command[0], *command[1:]], cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_wheel_holds_the_files_of_the_source_tree_and_no_others(built: Path) -> None:
    names = set(ZipFile(built).namelist())
    packages = {name.partition("/")[0] for name in names if ".dist-info/" not in name}
    source = {
        str(file.relative_to(parent))
        for package in packages
        for parent in (ROOT / "backend/src", ROOT / "backend")
        for file in (parent / package).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    assert {name for name in names if ".dist-info/" not in name} == source
    assert {name.rpartition(".")[2] for name in source} == {
        "css",
        "html",
        "js",
        "lua",
        "py",
        "svg",
        "toml",
        "typed",
    }


def test_the_wheel_carries_the_licence(built: Path) -> None:
    with ZipFile(built) as archive:
        (name,) = [it for it in archive.namelist() if it.endswith("/licenses/LICENSE")]
        assert archive.read(name) == (ROOT / "LICENSE").read_bytes()


def test_the_version_is_written_once(built: Path) -> None:
    assert built.name.split("-")[1] == __version__ == version("knowalledge")
    project = (ROOT / "backend/pyproject.toml").read_text()
    assert not re.search(r"^version *=", project, re.M)
    assert f'"{__version__}"' not in project


def test_what_is_imported_is_the_wheel_and_not_the_source_tree(folder: Path) -> None:
    code = "import knowalledge; print(knowalledge.__file__)"
    assert Path(run(folder, "python", "-c", code).strip()).is_relative_to(folder.parent)


def test_the_commands_of_the_wheel_work(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "gateway.yaml").write_text(CONFIG)
    assert "Commands:" in run(folder, "knowalledge", "--help")
    assert "--token-ms" in run(folder, "knowalledge", "provider-sim", "--help")
    assert "no fault" in run(
        folder, "knowalledge", "config", "check", "--config", str(tmp_path / "gateway.yaml")
    )
    assert run(folder, "knowalledge", "openapi") == (ROOT / "docs/openapi.json").read_text()
