"""gunicorn with gevent workers: a process per worker, a greenlet per connection, and a drain that ends no response."""

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

KEEPALIVE_S = 75.0  # an idle connection is closed after this; proxies in front must close theirs sooner
HEADERS_S = 10.0  # a request's headers must arrive within this
MAX_JOINED = 64 * 1024  # bytes of a body that is copied behind its head: a second send would cost more
FIRST_REQUEST_S = 1.0  # when draining: a new connection may still send its first request within this


class Handler(PyWSGIHandler):  # type: ignore[misc]
    """A connection. Its silence is bounded, and once the server drains it closes after the running response."""

    MessageClass = RequestHead
    has_served = False  # whether a request has been read

    def handle(self) -> None:
        # One timer of each kind per connection, not per request.
        timer, self._self = gevent.get_hub().loop.timer, gevent.getcurrent()
        self._idle, self._slow = timer(0.0, KEEPALIVE_S), timer(0.0, HEADERS_S)
        try:
            super().handle()
        finally:
            self._idle.close()
            self._slow.close()

    def read_requestline(self) -> Any:
        self.server.idle.add(self)
        # The caller takes an OSError such as TimeoutError as the end of the connection.
        self._idle.again(self._late, TimeoutError, "the connection was idle")
        try:
            return super().read_requestline()
        finally:
            self._idle.stop()
            self.server.idle.discard(self)
            self.has_served = True

    def read_request(self, raw_requestline: str) -> Any:
        self._slow.again(self._late, ValueError, "the headers took too long")
        try:
            return super().read_request(raw_requestline)
        finally:
            self._slow.stop()

    def _late(self, kind: type[Exception], why: str) -> None:
        """Called in the hub: raise in the connection's greenlet."""
        self._self.throw(kind(why))

    def get_environ(self) -> Any:
        environ = super().get_environ()
        environ[HUB_WRITE] = self.write_from_hub
        return environ

    def write_from_hub(self, data: bytes) -> None:
        """Write a small piece of the body from the hub, while the application writes nothing.

        Does nothing if no body has begun, or if the socket's buffer is full.
        """
        if not self.headers_sent:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self.response_use_chunked else data
        try:
            if self.socket.send(framed, 0, timeout=0.0) < len(framed):
                self.socket.shutdown(socket.SHUT_RDWR)  # a part of a piece cannot be taken back
        except (AttributeError, OSError):
            pass  # the connection has ended by itself

    def _headers(self) -> Iterator[tuple[str, str]]:
        headers: Iterator[tuple[str, str]] = self.headers.environ()
        return headers

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if self.server.draining:
            headers = [*headers, ("Connection", "close")]
        return super().start_response(status, headers, exc_info)

    def handle_one_request(self) -> Any:
        more = super().handle_one_request()
        # A response that began before the drain did not say Connection: close; its connection ends all the same.
        return None if more is True and self.server.draining else more

    def _write(self, data: bytes) -> None:
        if data:
            self._sendall(b"%x\r\n%b\r\n" % (len(data), data) if self.response_use_chunked else data)

    def _write_with_headers(self, data: bytes) -> None:
        # One send with the body, or its beginning; gevent's own method sends twice, and wakes the client twice.
        self.headers_sent = True
        self.finalize_headers()
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self.response_headers)
        head = b"HTTP/1.1 %b\r\n%b\r\n" % (self.status, lines)
        if len(data) > MAX_JOINED:
            self._sendall(head)
            self._write(data)
        elif self.response_use_chunked and data:
            self._sendall(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        else:
            self._sendall(head + data)

    def _sendall(self, data: bytes) -> None:
        # gevent's sendall asks the kernel for its buffer's size at every call; nearly always one send is enough.
        try:
            sent = self.socket.send(data)
        except OSError:
            sent = 0  # the next send raises the same error, where gevent handles it
        if sent < len(data):
            super()._sendall(data[sent:])
        self.response_length += sent

    def log_request(self) -> None:
        """Nothing: the telemetry logs requests."""

    def leave(self) -> None:
        """End the wait for a request. One that has arrived is still read and served."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except (AttributeError, OSError):
            pass  # the connection has ended by itself


class DrainingServer(PyWSGIServer):  # type: ignore[misc]
    """When it closes, idle connections end, running responses finish, and each connection ends after its response."""

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
            if handler.has_served:
                handler.leave()
        gevent.spawn_later(FIRST_REQUEST_S, self._leave_all)

    def _leave_all(self) -> None:
        for handler in list(self.idle):
            handler.leave()


class Worker(GeventPyWSGIWorker):  # type: ignore[misc]
    """gunicorn's gevent worker, whose connections drain and whose features start, drain and stop.

    gevent's own WSGI server takes about a third less processor time to parse and write than gunicorn's.
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
            "worker_connections": self._settings.server.connections,
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
