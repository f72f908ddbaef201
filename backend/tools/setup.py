"""Makes a virtual environment that holds what lock files name: ``setup.py ENVIRONMENT LOCK... [--editable FOLDER]``.

A lock names every distribution with its version and its hashes, so pip resolves nothing and builds nothing.
The environment keeps a stamp of what was installed. While the stamp matches, nothing is done; where it is empty or
absent, an earlier try was interrupted, and the environment is made anew. The syntax is that of Python 3.6, so that an
old Python is refused in a sentence.
"""

import argparse
import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

OLDEST = (3, 11)
STAMP = ".installed.json"
# What pip's output holds when no index answered.
UNREACHABLE = re.compile(
    r"NewConnectionError|NameResolutionError|ConnectTimeoutError|ReadTimeoutError|ProxyError"
    r"|Connection refused|Network is unreachable|Temporary failure in name resolution"
)


class SetupError(Exception):
    """What is wrong, for whoever typed the command."""


class UnreachableError(SetupError):
    """No package index answered; pip fetches everything before it installs anything, so nothing was changed."""


def say(text: str) -> None:
    sys.stdout.write(f"setup: {text}\n")
    sys.stdout.flush()


def read_stamp(environment: Path) -> "dict[str, str]":
    """What was installed: the environment's own path, and the digest of each lock by its name; empty where unknown."""
    try:
        stamp: dict[str, str] = json.loads((environment / STAMP).read_text())
    except (OSError, ValueError):
        return {}
    return stamp


def is_whole(environment: Path) -> bool:
    """Whether the last installation ended, nothing was moved since, and the Python inside starts and has pip."""
    # Scripts name the path of their environment, so one that was moved is broken.
    if read_stamp(environment).get("path") != str(environment.resolve()):
        return False
    code = f"import sys, pip; sys.exit(sys.version_info < {OLDEST})"
    quiet = subprocess.DEVNULL
    try:
        return subprocess.call([str(environment / "bin/python"), "-c", code], stdout=quiet, stderr=quiet) == 0
    except OSError:  # there is none, or only a link to one that is gone
        return False


def make(environment: Path) -> None:
    """An empty environment with pip, in place of whatever is there."""
    this = f"Python {sys.version_info[0]}.{sys.version_info[1]} ({sys.executable})"
    if sys.version_info < OLDEST:
        cure = f"{OLDEST[0]}.{OLDEST[1]} or later is needed: make setup PYTHON=/path/to/python3"
        raise SetupError(f"{this} is too old, {cure}")
    try:
        import ensurepip  # noqa: F401, PLC0415
        import venv  # noqa: F401, PLC0415
    except ImportError as error:
        package = f"python3.{sys.version_info[1]}-venv"
        cure = f"on Debian and Ubuntu `apt-get install {package}` brings it"
        raise SetupError(f"{this} has no module {error.name}, {cure}") from error
    run([sys.executable, "-m", "venv", "--clear", str(environment)], f"{environment} could not be made")


def run(command: "list[str]", trouble: str) -> None:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode == 0:
        return
    unreachable = UNREACHABLE.search(done.stdout)
    if unreachable:
        cure = "look at the network and at pip's configuration"
        raise UnreachableError(f"no package index can be reached ({unreachable.group()}), {cure}")
    end = "\n".join(done.stdout.strip().splitlines()[-15:])
    raise SetupError(f"{trouble}:\n{end}")


def install(environment: Path, locks: "list[Path]", editable: "Path | None") -> None:
    """Brings the environment up to date with the locks and with the folder that is installed as it stands.

    Raises SetupError: this Python is too old or has no venv, no index can be reached, or pip failed.
    """
    wanted = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in locks}
    if editable:
        wanted["editable"] = hashlib.sha256((editable / "pyproject.toml").read_bytes()).hexdigest()
    if not is_whole(environment):
        if environment.exists():
            say(f"{environment} is unfinished, broken or was moved; it is made anew")
        make(environment)
    stamp = {**read_stamp(environment), "path": str(environment.resolve())}
    missing = [name for name in wanted if stamp.get(name) != wanted[name]]
    if not missing:
        return
    (environment / STAMP).write_text("{}")  # stays behind if this try is interrupted
    pip = [str(environment / "bin/python"), "-m", "pip", "--disable-pip-version-check", "install"]
    try:
        for lock in locks:
            if lock.name in missing:
                say(f"installing what {lock} names into {environment}")
                options = ["--no-deps", "--only-binary=:all:", "--require-hashes", "-r", str(lock)]
                run([*pip, *options], f"{lock} could not be installed")
                stamp[lock.name] = wanted[lock.name]
        if editable and "editable" in missing:
            options = ["--no-deps", "--no-index", "--no-build-isolation", "-e", str(editable)]
            run([*pip, *options], f"{editable} could not be installed")
            stamp["editable"] = wanted["editable"]
    except UnreachableError:
        (environment / STAMP).write_text(json.dumps(stamp))
        raise
    (environment / STAMP).write_text(json.dumps(stamp))


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("environment", type=Path)
    parser.add_argument("locks", type=Path, nargs="+")
    parser.add_argument("--editable", type=Path, help="a folder with a pyproject.toml")
    given = parser.parse_args()
    try:
        install(given.environment, given.locks, given.editable)
    except SetupError as error:
        say(str(error))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
