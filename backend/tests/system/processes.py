"""Real processes for tests: started on a free port, ready when they say so, ended by their own id."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from redis import RedisError

from bench.ports import free_port

BACKEND = Path(__file__).parents[2]
READY_S = 30


@contextmanager
def running(*arguments: str, log: Path) -> Iterator["subprocess.Popen[bytes]"]:
    """A Python process that prints one line with "ready" in it; what it logs goes to a file."""
    path = os.pathsep.join([str(BACKEND / "src"), str(BACKEND)])
    with log.open("wb") as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            stdout=subprocess.PIPE,
            stderr=errors,
            env=os.environ | {"PYTHONPATH": path},
        )
    late = threading.Timer(READY_S, process.kill)
    late.start()
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        late.cancel()
        assert b"ready" in line, log.read_text()[-4000:]
        yield process
    finally:
        late.cancel()
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        if process.stdout is not None:
            process.stdout.close()


@contextmanager
def gateway(config: str, folder: Path, workers: int = 1) -> Iterator[str]:
    """A gateway with this configuration; gives its address."""
    file = folder / "gateway.yaml"
    file.write_text(config)
    port = free_port()
    with running(
        "knowalledge.cli",
        "serve",
        "--config",
        str(file),
        "--bind",
        f"127.0.0.1:{port}",
        "--workers",
        str(workers),
        log=folder / "gateway.log",
    ):
        yield f"http://127.0.0.1:{port}"


@contextmanager
def simulator(folder: Path, *flags: str) -> Iterator[str]:
    """A strict provider; gives its address."""
    port = free_port()
    with running(
        "knowalledge_simulator", "--bind", f"127.0.0.1:{port}", *flags, log=folder / "simulator.log"
    ):
        yield f"http://127.0.0.1:{port}"


def until(true: Callable[[], object]) -> None:
    """Wait for it; what Redis refuses meanwhile counts as not yet."""
    for _ in range(1200):
        try:
            if true():
                return
        except RedisError:
            pass
        time.sleep(0.025)
    raise AssertionError("it never came true")
