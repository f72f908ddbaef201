"""A small HTTP server on loopback with a handler per test, well-behaved or not. It runs in the test's own hub."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket
from gevent.ssl import SSLContext


class ReceivedRequest(NamedTuple):
    """A request as it arrived."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


Handler = Callable[["Exchange"], object]


class Exchange:
    """One request, and the socket to respond on.

    The connection stays open after a handler returns, unless that has called ``close_after``.
    """

    def __init__(self, wire: socket, request: ReceivedRequest, number: int, server: "Loopback") -> None:
        self.wire, self.request, self.number, self.server = wire, request, number, server
        self.closing = False

    def send(self, data: bytes) -> None:
        self.wire.sendall(data)

    def respond(self, body: bytes, status: int = 200, **headers: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.send(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body)

    def start_stream(self, **headers: str) -> None:
        """Send the head of a streamed response."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.send(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            + lines.encode()
            + b"\r\n"
        )

    def send_chunk(self, data: bytes) -> None:
        self.send(b"%x\r\n%s\r\n" % (len(data), data))

    def end_stream(self) -> None:
        self.send(b"0\r\n\r\n")

    def close_after(self) -> None:
        """Close the connection when the handler returns."""
        self.closing = True

    def reset(self) -> None:
        """Reset the connection: the client's next read fails."""
        import struct
        from socket import SO_LINGER, SOL_SOCKET

        self.wire.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.close_after()

    def hang(self) -> None:
        """Send nothing more until the client disconnects."""
        try:
            while self.wire.recv(1024):
                pass
        except OSError:
            pass
        self.close_after()


class Loopback:
    """The server, with counters. ``handler`` may be replaced at any time; ``idle`` is set without connections."""

    def __init__(self, handler: Handler, tls: SSLContext | None = None, family: str = "127.0.0.1") -> None:
        self.handler = handler
        self.requests: list[ReceivedRequest] = []
        self.connections = 0
        self.open_connections = 0
        self.idle = Event()
        self.idle.set()
        extra: dict[str, Any] = {} if tls is None else {"ssl_context": tls}
        self._pool = Pool()
        self._server = StreamServer((family, 0), self._serve, spawn=self._pool, **extra)
        self._server.start()
        assert self._server.server_port is not None
        self.port = self._server.server_port
        host = f"[{family}]" if ":" in family else family
        self.url = f"{'http' if tls is None else 'https'}://{host}:{self.port}"

    def _serve(self, wire: socket, _: object) -> None:
        self.connections += 1
        self.open_connections += 1
        self.idle.clear()
        try:
            number = 0
            while (request := _read_request(wire)) is not None:
                self.requests.append(request)
                number += 1
                exchange = Exchange(wire, request, number, self)
                self.handler(exchange)
                if exchange.closing:
                    return
        except OSError:
            pass  # the client disconnected, as many tests intend
        finally:
            wire.close()
            self.open_connections -= 1
            if not self.open_connections:
                self.idle.set()

    def drop(self) -> None:
        """Close every connection and keep listening."""
        self._pool.kill()

    def stop(self) -> None:
        self._server.stop(timeout=0)


def _read_request(wire: socket) -> ReceivedRequest | None:
    data = b""
    while b"\r\n\r\n" not in data:
        more = wire.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    line, *fields = head.decode("latin-1").split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in fields)}
    length = int(headers.get("content-length", 0))
    while len(body) < length:
        more = wire.recv(65536)
        if not more:
            return None
        body += more
    return ReceivedRequest(line, headers, body)


@contextmanager
def listening(handle: Callable[[socket], object]) -> Iterator[int]:
    """A server that calls ``handle`` with each connection; yields its port. All sockets are closed afterwards."""
    sockets: list[socket] = []

    def serve(wire: socket, _: object) -> None:
        sockets.append(wire)
        try:
            handle(wire)
        except OSError:
            pass  # the client disconnected
        finally:
            wire.close()

    pool = Pool()
    server = StreamServer(("127.0.0.1", 0), serve, spawn=pool)
    server.start()
    try:
        assert server.server_port is not None
        yield server.server_port
    finally:
        server.stop(timeout=0)
        pool.kill()
        for wire in sockets:
            wire.close()


@contextmanager
def serving(handler: Handler, tls: SSLContext | None = None, family: str = "127.0.0.1") -> Iterator[Loopback]:
    server = Loopback(handler, tls, family)
    try:
        yield server
    finally:
        server.stop()


def replies(body: bytes, status: int = 200, **headers: str) -> Handler:
    """The same response to every request."""
    return lambda exchange: exchange.respond(body, status, **headers)


def streams(*events: bytes, zipped: bool = False) -> Handler:
    """A stream with each event in a chunk of its own, and a proper end."""

    def handle(exchange: Exchange) -> None:
        if zipped:
            exchange.start_stream(content_encoding="gzip")
            exchange.send_chunk(gzip.compress(b"".join(events)))
        else:
            exchange.start_stream()
            for event in events:
                exchange.send_chunk(event)
        exchange.end_stream()

    return handle


def sse(data: bytes) -> bytes:
    return b"data: " + data + b"\r\n\r\n"


def wait_until(condition: Callable[[], bool]) -> None:
    """Run the other greenlets until a condition holds, at most 20 s."""
    with gevent.Timeout(20):
        while not condition():
            gevent.sleep(0.002)


def run_others() -> None:
    """Let every other greenlet run until it waits."""
    for _ in range(5):
        gevent.sleep(0)
