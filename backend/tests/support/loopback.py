"""A small HTTP server on loopback that behaves, or misbehaves, as a test says. It runs in the test's own hub."""

import gzip
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gevent.socket import socket
from gevent.ssl import SSLContext


class Asked(NamedTuple):
    """A request as it came in."""

    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return self.line.split(" ")[1]


Behaviour = Callable[["Talk"], None]


class Talk:
    """One request, and the socket to answer it on. A behaviour that returns without ``end`` keeps the connection."""

    def __init__(self, wire: socket, asked: Asked, number: int, server: "Loopback") -> None:
        self.wire, self.asked, self.number, self.server = wire, asked, number, server
        self.ended = False

    def say(self, data: bytes) -> None:
        self.wire.sendall(data)

    def reply(self, body: bytes, status: int = 200, **headers: str) -> None:
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.say(f"HTTP/1.1 {status} X\r\ncontent-length: {len(body)}\r\n{lines}\r\n".encode() + body)

    def begin(self, **headers: str) -> None:
        """The head of a stream."""
        lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
        self.say(
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n"
            + lines.encode()
            + b"\r\n"
        )

    def piece(self, data: bytes) -> None:
        self.say(b"%x\r\n%s\r\n" % (len(data), data))

    def finish(self) -> None:
        self.say(b"0\r\n\r\n")

    def end(self) -> None:
        """Close the connection after this."""
        self.ended = True

    def reset(self) -> None:
        """Close it the hard way: the other side's next read fails."""
        import struct
        from socket import SO_LINGER, SOL_SOCKET

        self.wire.setsockopt(SOL_SOCKET, SO_LINGER, struct.pack("ii", 1, 0))
        self.end()

    def hang(self) -> None:
        """Say nothing more until the other side goes."""
        try:
            while self.wire.recv(1024):
                pass
        except OSError:
            pass
        self.end()


class Loopback:
    """Counts what happens to it. ``behaviour`` may be exchanged at any time."""

    def __init__(
        self, behaviour: Behaviour, tls: SSLContext | None = None, family: str = "127.0.0.1"
    ) -> None:
        self.behaviour = behaviour
        self.asked: list[Asked] = []
        self.connections = 0
        self.open = 0
        self.empty = Event()
        self.empty.set()
        extra = {} if tls is None else {"ssl_context": tls}
        self._server = StreamServer((family, 0), self._serve, spawn=Pool(), **extra)
        self._server.start()
        self.port = int(self._server.server_port)
        host = f"[{family}]" if ":" in family else family
        self.url = f"{'http' if tls is None else 'https'}://{host}:{self.port}"

    def _serve(self, wire: socket, _: object) -> None:
        self.connections += 1
        self.open += 1
        self.empty.clear()
        try:
            number = 0
            while (asked := _request(wire)) is not None:
                self.asked.append(asked)
                number += 1
                talk = Talk(wire, asked, number, self)
                self.behaviour(talk)
                if talk.ended:
                    return
        except OSError:
            pass  # the other side went: what the tests are about
        finally:
            wire.close()
            self.open -= 1
            if not self.open:
                self.empty.set()

    def drop(self) -> None:
        """Close every connection, keep listening."""
        self._server.pool.kill()

    def stop(self) -> None:
        self._server.stop(timeout=0)


def _request(wire: socket) -> Asked | None:
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
    return Asked(line, headers, body)


@contextmanager
def listening(handle: Callable[[socket], object]) -> Iterator[int]:
    """A server of bare sockets; gives its port. Nothing of it is left afterwards."""
    open_: list[socket] = []

    def serve(wire: socket, _: object) -> None:
        open_.append(wire)
        try:
            handle(wire)
        except OSError:
            pass  # the other side went
        finally:
            wire.close()

    pool = Pool()
    server = StreamServer(("127.0.0.1", 0), serve, spawn=pool)
    server.start()
    try:
        yield int(server.server_port)
    finally:
        server.stop(timeout=0)
        pool.kill()
        for wire in open_:
            wire.close()


@contextmanager
def serving(
    behaviour: Behaviour, tls: SSLContext | None = None, family: str = "127.0.0.1"
) -> Iterator[Loopback]:
    server = Loopback(behaviour, tls, family)
    try:
        yield server
    finally:
        server.stop()


def replies(body: bytes, status: int = 200, **headers: str) -> Behaviour:
    """The same answer to every request."""
    return lambda talk: talk.reply(body, status, **headers)


def streams(*events: bytes, zipped: bool = False) -> Behaviour:
    """Every event in a chunk of its own, and a proper end."""

    def behave(talk: Talk) -> None:
        if zipped:
            talk.begin(content_encoding="gzip")
            talk.piece(gzip.compress(b"".join(events)))
        else:
            talk.begin()
            for event in events:
                talk.piece(event)
        talk.finish()

    return behave


def sse(data: bytes) -> bytes:
    return b"data: " + data + b"\r\n\r\n"


def until(true: Callable[[], bool]) -> None:
    """Let the others run until it is so."""
    with gevent.Timeout(20):
        while not true():
            gevent.sleep(0.002)


def settle() -> None:
    """Let every other greenlet run until it waits."""
    for _ in range(5):
        gevent.sleep(0)
