"""gunicorn with gevent workers: a process per worker, a greenlet per connection, and a drain that ends no response."""

import contextlib
import gc
import os
import resource
import shutil
import signal
import tempfile
from collections.abc import Callable
from time import monotonic
from typing import Any

import gevent
import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger
from gunicorn.workers.ggevent import GeventPyWSGIWorker

from knowalledge.app import create_app
from knowalledge.config.settings import Settings
from knowalledge.net.wsgi_server import RESERVED, DrainingServer, Handler
from knowalledge.observability.logging import (
    CONSOLE,
    LibraryLines,
    configure,
    for_people,
    no_core_dump,
    take_over,
)
from knowalledge.observability.metrics import FOLDER_VARIABLE, forget_worker

QUIT_S = 1  # after Ctrl-C running responses have this long


class WatchedHandler(Handler):
    """A connection whose every request is a line for the person who watches."""

    def handle_one_response(self) -> None:
        began = monotonic()
        super().handle_one_response()
        seconds = monotonic() - began
        ids = [value for name, value in self.response_headers or () if bytes(name).lower() == b"x-request-id"]
        status = bytes(self.status or b"499").decode("latin-1")  # none: the client left before there was one
        request_id = bytes(ids[0]).decode("latin-1") if ids else ""
        CONSOLE.responded(self.command or "?", self.path or "", status, seconds, request_id)


class Lines(Logger):  # type: ignore[misc]
    """gunicorn's log, in our lines."""

    def _set_handler(self, log: Any, *_: Any, **__: Any) -> None:
        log.handlers[:] = [LibraryLines()]


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, whose connections drain and whose features start, drain and stop.

    gevent's own WSGI server takes about a third less processor time to parse and write than gunicorn's.
    """

    wsgi_handler = Handler

    def server_class(self, *args: Any, **kwargs: Any) -> DrainingServer:
        server = DrainingServer(
            *args,
            keepalive_s=float(self.cfg.keepalive),
            on_refusal=self._record_refusal,
            **kwargs,
        )
        self._servers.append(server)
        return server

    def _record_refusal(self, status: int, reason: str) -> None:
        """The server answered this itself, without the application."""
        self.wsgi.extensions["knowalledge_http"].http("unmatched", status)
        structlog.get_logger().warning("the server refused a request", status=status, reason=reason)

    def init_signals(self) -> None:
        super().init_signals()
        # Ctrl-C reaches every process of a terminal: the master decides, and tells its workers by SIGQUIT.
        signal.signal(signal.SIGINT, signal.SIG_IGN)

    def handle_quit(self, sig: int, frame: Any) -> None:
        self.cfg.set("graceful_timeout", QUIT_S)
        self.handle_exit(sig, frame)

    def handle_exit(self, sig: int, frame: Any) -> None:
        gevent.spawn(self._drain)
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        # Stop accepting first: a request that is refused from here on must not come back to this replica.
        for server in self._servers:
            server.close()
        self.wsgi.extensions["knowalledge"].drain()

    def run(self) -> None:
        self._servers: list[DrainingServer] = []
        gevent.config.track_greenlet_tree = False  # else gevent walks up the stack for each new greenlet
        take_over()
        life = self.wsgi.extensions["knowalledge"]
        life.start()
        # Objects of the start-up live on: a full collection that visits them holds the hub for 50 ms and more.
        gc.collect()
        gc.freeze()
        # Reference counts free nearly everything. A full collection visits the requests in flight: with a thousand of
        # them it holds the hub for tens of milliseconds.
        gc.set_threshold(2_000, 5, 1_000)
        super().run()
        life.stop()


class WatchedWorker(Worker):
    """A worker that a person watches."""

    wsgi_handler = WatchedHandler


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by our settings alone. ``ready`` gets the address when requests are served."""

    def __init__(
        self, settings: Settings, bind: str, workers: int, ready: Callable[[str], None] = lambda _: None
    ) -> None:
        self._settings = settings
        self._bind = bind
        self._workers = workers
        self._tell = ready
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            "bind": self._bind,
            "workers": self._workers,
            "worker_class": WatchedWorker if for_people(self._settings.log.format) else Worker,
            "worker_connections": self._settings.server.connections + RESERVED,
            "keepalive": max(1, int(self._settings.server.keepalive)),
            "graceful_timeout": int(self._settings.server.drain),
            "timeout": 60,
            "loglevel": "warning",
            "logger_class": Lines,
            "worker_tmp_dir": tempfile.gettempdir(),
            "control_socket_disable": True,  # unused, and a read-only root has no place for it
            "when_ready": self._ready,
            "child_exit": self._forget,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app(self._settings)

    def run(self) -> None:
        no_core_dump()
        _allow_files()
        configure(self._settings.log.level, self._settings.log.format)
        take_over()
        folder, master = "", os.getpid()
        if self._workers > 1 and FOLDER_VARIABLE not in os.environ:
            folder = os.environ[FOLDER_VARIABLE] = tempfile.mkdtemp(prefix="knowalledge-metrics-")
        try:
            super().run()
        finally:  # a worker that ends comes by here too
            if folder and os.getpid() == master:
                shutil.rmtree(folder, ignore_errors=True)

    def _forget(self, _: Any, worker: Any) -> None:
        if FOLDER_VARIABLE in os.environ:
            forget_worker(worker.pid)

    def _ready(self, arbiter: Any) -> None:
        workers = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        bound = arbiter.LISTENERS[0].sock.getsockname()
        url = address(*bound[:2]) if isinstance(bound, tuple) else self._bind
        _say(f"knowalledge ready on {url} ({workers})")
        self._tell(url)


def address(host: str, port: int) -> str:
    """The URL of a listening socket, for this machine: of one that listens everywhere, its loopback address."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)  # nosec B104 - compared, not bound
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _allow_files() -> None:
    """Two file descriptors for each connection, its provider's included: the usual soft limit is 1024."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _say(line: str) -> None:
    """A line on standard output, if somebody takes it."""
    with contextlib.suppress(OSError, ValueError):
        print(line, flush=True)  # noqa: T201 - for who started the server
