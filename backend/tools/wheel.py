"""Build the wheel, and install it apart from the source tree: ``make wheel``.

Its dependencies are the locked ones of ``.venv``: a ``.pth`` file makes that folder visible to the new environment.
Python ignores ``.pth`` files inside such a folder, so the editable install of the source tree stays invisible.
"""

import subprocess
import sys
import venv
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).parents[2]


def build(folder: Path) -> Path:
    """Build the wheel into ``folder`` with the locked build backend; its path."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", "wheel", "--directory", str(folder)]
    subprocess.run(command, cwd=ROOT / "backend", check=True, stdout=subprocess.DEVNULL)
    (wheel,) = folder.glob("knowalledge-*.whl")
    return wheel


def install(wheel: Path, environment: Path, *folders: Path) -> Path:
    """Install the wheel into a new virtual environment, offline; the path of its ``bin``.

    ``folders`` are searched for modules after everything that is installed.
    """
    venv.create(environment, clear=True, with_pip=False)
    python = environment / "bin/python"
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--python", str(python)]
    subprocess.run([*pip, "install", "--no-index", "--no-deps", str(wheel)], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    (packages / "locked.pth").write_text("".join(f"{it}\n" for it in (_locked(), *folders)))
    return python.parent


def _locked() -> Path:
    """The folder of the locked packages: where one that is always there comes from."""
    flask = find_spec("flask")
    if flask is None or flask.origin is None:
        raise ModuleNotFoundError("flask is not installed: run `make setup`")
    return Path(flask.origin).parents[1]


def main() -> int:
    """``python -m tools.wheel FOLDER [ENVIRONMENT]``: build; install into the environment, tests beside it."""
    folder = Path(sys.argv[1]).resolve()
    for old in folder.glob("knowalledge-*.whl"):
        old.unlink()
    wheel = build(folder)
    print(wheel)
    if len(sys.argv) > 2:
        print(install(wheel, Path(sys.argv[2]).resolve(), ROOT / "backend"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
