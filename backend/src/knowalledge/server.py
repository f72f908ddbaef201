"""gunicorn with gevent workers: a process per worker, a greenlet per connection, and a drain that ends no response."""

import gc
import os
import shutil
import tempfile
from typing import Any

import gevent
import structlog
from gunicorn.app.base import BaseApplication
from gunicorn.workers.ggevent import GeventPyWSGIWorker

from knowalledge.app import create_app
from knowalledge.config.settings import Settings
from knowalledge.net.wsgi_server import RESERVED, DrainingServer, Handler
from knowalledge.observability.metrics import FOLDER_VARIABLE, forget_worker


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


class Server(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by our settings alone."""

    def __init__(self, settings: Settings, bind: str, workers: int) -> None:
        self._settings = settings
        self._bind = bind
        self._workers = workers
        super().__init__()

    def load_config(self) -> None:
        for name, value in {
            "bind": self._bind,
            "workers": self._workers,
            "worker_class": Worker,
            "worker_connections": self._settings.server.connections + RESERVED,
            "keepalive": max(1, int(self._settings.server.keepalive)),
            "graceful_timeout": int(self._settings.server.drain),
            "timeout": 60,
            "loglevel": "warning",
            "worker_tmp_dir": tempfile.gettempdir(),
            "control_socket_disable": True,  # unused, and a read-only root has no place for it
            "when_ready": self._ready,
            "child_exit": self._forget,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app(self._settings)

    def run(self) -> None:
        if self._workers == 1 or FOLDER_VARIABLE in os.environ:
            super().run()
            return
        folder, master = tempfile.mkdtemp(prefix="knowalledge-metrics-"), os.getpid()
        os.environ[FOLDER_VARIABLE] = folder
        try:
            super().run()
        finally:  # a worker that ends comes by here too
            if os.getpid() == master:
                shutil.rmtree(folder, ignore_errors=True)

    def _forget(self, _: Any, worker: Any) -> None:
        if FOLDER_VARIABLE in os.environ:
            forget_worker(worker.pid)

    def _ready(self, _: Any) -> None:
        workers = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        print(f"knowalledge ready on http://{self._bind} ({workers})", flush=True)  # noqa: T201 - the one line
