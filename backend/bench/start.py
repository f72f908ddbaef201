"""Time from `make run` in a bare clone to the first answer of the embedded model, and of a second `make run`."""

import os
import signal
import subprocess
import tempfile
import time
from http.client import HTTPException
from pathlib import Path

from bench.ports import free_port
from bench.processes import fetch
from bench.report import Row

TITLE = "From a clone to the first answer"
WHY = """\
`git clone`, then `make run` until the embedded model answers `POST /api/v1/generate`; the package cache is cold.
Then the gateway is stopped, and `make run` is typed again.
Wall-clock time: it depends on the connection to the package index and on who else uses the machine."""
CHECKOUT = Path(__file__).parents[2]
FIRST_S, AGAIN_S = 180.0, 5.0
PATIENCE_S = 900.0
ASK = {"prompt": "Say hello.", "max_output_tokens": 16}


def run(quick: bool) -> list[Row]:  # noqa: ARG001 - there is no shorter way to start
    with tempfile.TemporaryDirectory(prefix="bench-start-") as folder:
        clone = Path(folder) / "clone"
        subprocess.run(
            ["git", "-c", "advice.detachedHead=false", "clone", "--quiet", str(CHECKOUT), str(clone)],
            check=True,
        )
        cache = Path(folder) / "cache"
        first, text = _time_to_answer(clone, cache)
        again, _ = _time_to_answer(clone, cache)
    return [
        Row(
            "`make run` in a bare clone, the package cache cold: the first answer after",
            f'{first:.0f} s ("{_shown(text)}")',
            f"< {FIRST_S:.0f} s",
        ),
        Row("`make run` the second time", f"{again:.1f} s", f"< {AGAIN_S:.0f} s"),
    ]


def _time_to_answer(clone: Path, cache: Path) -> tuple[float, str]:
    """Seconds from `make run` to an answer, and its text. The processes are ended again."""
    port = free_port()
    log = clone.parent / f"{port}.log"
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL_ENV"))
    }
    with log.open("w") as out:
        started = time.monotonic()
        # In a session of its own, so that all its processes can be signalled together.
        process = subprocess.Popen(
            ["make", "run", f"BIND=127.0.0.1:{port}"],
            cwd=clone,
            env=env | {"PIP_CACHE_DIR": str(cache)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,
        )
    try:
        while time.monotonic() < started + PATIENCE_S:
            if process.poll() is not None:
                break
            try:
                answer = fetch(port, "POST", "/api/v1/generate", ASK)
            except (OSError, HTTPException):
                time.sleep(0.02)  # it does not listen yet
                continue
            if "text" in answer:
                return time.monotonic() - started, str(answer["text"])
        raise RuntimeError(f"`make run` gave no answer: {log.read_text()[-2000:]}")
    finally:
        _end(process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """Interrupt the process group as Ctrl-C does; after 20 s kill it."""
    for number in (signal.SIGINT, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(20)
        except ProcessLookupError:
            break  # no process is left
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _shown(text: str) -> str:
    return " ".join(text.replace("|", " ").split())[:60]
