"""gunicorn with gevent workers: one process a worker, greenlets within."""

import tempfile
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.workers.ggevent import GeventPyWSGIWorker

from knowalledge.app import create_app
from knowalledge.settings import Settings


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, which tells the application of its end."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        life = self.wsgi.extensions["knowalledge"]
        gevent.spawn(life.drain)
        super().handle_exit(sig, frame)

    def run(self) -> None:
        life = self.wsgi.extensions["knowalledge"]
        life.start()
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
            # gevent's own WSGI server parses and writes for about a third less than gunicorn's.
            "worker_class": Worker,
            "worker_connections": self._settings["server.connections"],
            "graceful_timeout": int(self._settings["server.drain"]),
            "timeout": 60,
            "keepalive": 75,
            "loglevel": "warning",
            "worker_tmp_dir": tempfile.gettempdir(),
            "when_ready": self._ready,
        }.items():
            self.cfg.set(name, value)

    def load(self) -> Any:
        return create_app(self._settings)

    def _ready(self, _: Any) -> None:
        workers = "1 worker" if self._workers == 1 else f"{self._workers} workers"
        print(f"knowalledge ready on http://{self._bind} ({workers})", flush=True)  # noqa: T201 - the one line
