"""gunicorn with gevent workers: one process a worker, greenlets within, and an end that cuts nothing short."""

import gc
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

import gevent
from gunicorn.app.base import BaseApplication
from gunicorn.workers.ggevent import GeventPyWSGIWorker, PyWSGIHandler, PyWSGIServer

from knowalledge.app import create_app
from knowalledge.config.settings import Settings
from knowalledge.gateway.api.streaming import HUB_WRITE
from knowalledge.net.wsgi_head import RequestHead
from knowalledge.observability.metrics import FOLDER_VARIABLE, forget_worker

KEEPALIVE_S = 75.0  # an idle connection is dropped after this; proxies in front must drop theirs sooner
HEADERS_S = 10.0  # a request's headers must have arrived after this
TOGETHER = 64 * 1024  # a body up to this size is copied behind its head: one send is dearer than that copy
FRESH_S = 1.0  # when draining: a connection that has not asked anything yet may still do so within this


class Handler(PyWSGIHandler):  # type: ignore[misc]
    """A connection: bounded while it is silent, and closed after its answer once the server drains."""

    MessageClass = RequestHead
    asked = False  # at least one request has come

    def handle(self) -> None:
        # One timer of each kind a connection, not a new one for each of its requests.
        timer, self._self = gevent.get_hub().loop.timer, gevent.getcurrent()
        self._idle, self._slow = timer(0.0, KEEPALIVE_S), timer(0.0, HEADERS_S)
        try:
            super().handle()
        finally:
            self._idle.close()
            self._slow.close()

    def read_requestline(self) -> Any:
        self.server.idle.add(self)
        # TimeoutError is an OSError, which the caller takes as the end of the connection.
        self._idle.again(self._late, TimeoutError, "the connection was idle")
        try:
            return super().read_requestline()
        finally:
            self._idle.stop()
            self.server.idle.discard(self)
            self.asked = True

    def read_request(self, raw_requestline: str) -> Any:
        self._slow.again(self._late, ValueError, "the headers took too long")
        try:
            return super().read_request(raw_requestline)
        finally:
            self._slow.stop()

    def _late(self, kind: type[Exception], why: str) -> None:
        """In the hub."""
        self._self.throw(kind(why))

    def get_environ(self) -> Any:
        found = super().get_environ()
        found[HUB_WRITE] = self.aside
        return found

    def aside(self, data: bytes) -> None:
        """Write a small piece of the body from the hub, while the application is silent.

        Nothing if there is no body yet, or the client is too slow to take it at once.
        """
        if not self.headers_sent:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self.response_use_chunked else data
        try:
            if self.socket.send(framed, 0, timeout=0.0) < len(framed):
                self.socket.shutdown(socket.SHUT_RDWR)  # half a piece cannot be taken back
        except (AttributeError, OSError):
            pass  # the connection has ended by itself

    def _headers(self) -> Iterator[tuple[str, str]]:
        found: Iterator[tuple[str, str]] = self.headers.environ()
        return found

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if self.server.draining:
            headers = [*headers, ("Connection", "close")]
        return super().start_response(status, headers, exc_info)

    def handle_one_request(self) -> Any:
        more = super().handle_one_request()
        # An answer that began before the drain did not say Connection: close; its connection ends all the same.
        return None if more is True and self.server.draining else more

    def _write(self, data: bytes) -> None:
        if data:
            self._sendall(b"%x\r\n%b\r\n" % (len(data), data) if self.response_use_chunked else data)

    def _write_with_headers(self, data: bytes) -> None:
        # In one send with the body, or what there is of it; gevent's own takes two, and wakes the client twice.
        self.headers_sent = True
        self.finalize_headers()
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self.response_headers)
        head = b"HTTP/1.1 %b\r\n%b\r\n" % (self.status, lines)
        if len(data) > TOGETHER:
            self._sendall(head)
            self._write(data)
        elif self.response_use_chunked and data:
            self._sendall(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        else:
            self._sendall(head + data)

    def _sendall(self, data: bytes) -> None:
        # gevent's sendall asks the kernel for the size of its buffer at every call; nearly always one send is all.
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0  # it will say so again, to the one who knows what to do
        if sent < len(data):
            super()._sendall(data[sent:])
        self.response_length += sent

    def log_request(self) -> None:
        """Nothing: telemetry writes one record a request."""

    def leave(self) -> None:
        """End the wait for a request. One that has arrived already is still read and answered."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except (AttributeError, OSError):
            pass  # the connection has ended by itself


class DrainingServer(PyWSGIServer):  # type: ignore[misc]
    """When it closes, idle connections end, running answers finish, and every connection ends after its answer."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.draining = False
        self.idle: set[Handler] = set()
        super().__init__(*args, **kwargs)

    def close(self) -> None:
        super().close()
        if self.draining:
            return
        self.draining = True
        for handler in list(self.idle):
            if handler.asked:
                handler.leave()
        gevent.spawn_later(FRESH_S, self._leave_all)

    def _leave_all(self) -> None:
        for handler in list(self.idle):
            handler.leave()


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, which tells the application of its end, and whose connections drain.

    gevent's own WSGI server parses and writes for about a third less than gunicorn's.
    """

    wsgi_handler = Handler

    def server_class(self, *args: Any, **kwargs: Any) -> DrainingServer:
        server = DrainingServer(*args, **kwargs)
        self._servers.append(server)
        return server

    def handle_exit(self, sig: int, frame: Any) -> None:
        gevent.spawn(self._drain)
        super().handle_exit(sig, frame)

    def _drain(self) -> None:
        # First the door, at once: whoever is refused from here on must not be able to come back to this replica.
        for server in self._servers:
            server.close()
        self.wsgi.extensions["knowalledge"].drain()

    def run(self) -> None:
        self._servers: list[DrainingServer] = []
        gevent.config.track_greenlet_tree = False  # a walk up the stack for each greenlet, which nobody reads
        life = self.wsgi.extensions["knowalledge"]
        life.start()
        # What start-up made stays for good: a full collection that looks at it holds the hub for 50 ms and more.
        gc.collect()
        gc.freeze()
        # Nearly all is freed by its count; what a full collection looks at are the requests that are in flight, and
        # with a thousand of them it holds the hub for tens of milliseconds.
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
            "worker_connections": self._settings.server.connections,
            "graceful_timeout": int(self._settings.server.drain),
            "timeout": 60,
            "loglevel": "warning",
            "worker_tmp_dir": tempfile.gettempdir(),
            "control_socket_disable": True,  # nobody speaks to it, and a read-only root has no place for it
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
