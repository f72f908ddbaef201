"""An answer on the wire: framed as it must be, in as few sends as can be."""

from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag
from gevent.socket import SHUT_WR, create_connection, socket

import knowalledge.net.wsgi_server
from knowalledge.net.presence import HUB_WRITE
from knowalledge.net.wsgi_server import MAX_JOINED, DrainingServer, Handler

S, SHORT = 20.0, 0.2
BIG = b"x" * (MAX_JOINED + 1)


class Noting(Handler):
    """Remembers what was sent at a time."""

    sent: list[bytes]

    def _sendall(self, data: bytes) -> None:
        self.sent.append(bytes(data))
        super()._sendall(data)


@pytest.fixture
def answered() -> Iterator[Callable[..., tuple[list[bytes], bytes]]]:
    """What is sent at a time, and what arrives, when an application answers with these pieces."""
    servers: list[DrainingServer] = []

    def answer(pieces: list[bytes], length: int | None = None) -> tuple[list[bytes], bytes]:
        def app(_: Any, start: Any) -> Iterator[bytes]:
            start("200 OK", [("X-One", "1"), *([] if length is None else [("Content-Length", str(length))])])
            return iter(pieces)  # of a list the server would know the length

        Noting.sent = []
        server = DrainingServer(("127.0.0.1", 0), app, handler_class=Noting, log=None)
        servers.append(server)
        server.start()
        arrived = b""
        with create_connection(server.address) as client:
            client.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            client.shutdown(SHUT_WR)
            while more := client.recv(65536):
                arrived += more
        return Noting.sent, arrived

    yield answer
    for server in servers:
        server.stop()


def test_a_whole_answer_is_one_send(answered: Callable[..., tuple[list[bytes], bytes]]) -> None:
    sent, arrived = answered([b"yes"], 3)
    assert sent == [arrived]
    head, _, body = arrived.partition(b"\r\n\r\n")
    assert body == b"yes"
    assert head.startswith(b"HTTP/1.1 200 OK\r\n")
    assert {b"X-One: 1", b"Content-Length: 3"} <= set(head.split(b"\r\n"))


def test_a_large_body_is_not_copied_behind_its_head(
    answered: Callable[..., tuple[list[bytes], bytes]],
) -> None:
    sent, arrived = answered([BIG], len(BIG))
    assert [sent[1:], arrived.partition(b"\r\n\r\n")[2]] == [[BIG], BIG]


@pytest.mark.parametrize("first", [b"a" * 17, BIG])
def test_the_first_piece_of_a_stream_goes_with_its_head_and_each_other_by_itself(
    answered: Callable[..., tuple[list[bytes], bytes]], first: bytes
) -> None:
    sent, arrived = answered([first, b"", b"bc"])
    framed = b"%x\r\n%b\r\n" % (len(first), first)
    assert arrived.partition(b"\r\n\r\n")[2] == framed + b"2\r\nbc\r\n0\r\n\r\n"
    assert sent[-2:] == [b"2\r\nbc\r\n", b"0\r\n\r\n"]
    assert (sent[0].endswith(framed), len(sent)) == ((True, 3) if first is not BIG else (False, 4))


def test_an_empty_answer_has_its_head(answered: Callable[..., tuple[list[bytes], bytes]]) -> None:
    _, arrived = answered([], 0)
    assert arrived.endswith(b"\r\n\r\n")
    assert b"Content-Length: 0\r\n" in arrived


@pytest.fixture
def asked() -> Iterator[Callable[..., socket]]:
    """A client that has asked an application, which it serves."""
    ends: list[Any] = []

    def ask(app: Any, version: str = "1.1") -> socket:
        server = DrainingServer(("127.0.0.1", 0), app, handler_class=Handler, log=None)
        server.start()
        client = create_connection(server.address)
        ends.extend((server.stop, client.close))
        client.sendall(b"GET / HTTP/%b\r\nhost: x\r\nconnection: close\r\n\r\n" % version.encode())
        return client

    yield ask
    for end in reversed(ends):
        end()


def rest(client: socket) -> bytes:
    """All that arrives until the connection ends."""
    return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize(("version", "framed"), [("1.1", b"4\r\nbeat\r\n"), ("1.0", b"beat")])
def test_a_silent_application_can_be_spoken_for_from_the_hub(
    asked: Callable[..., socket], version: str, framed: bytes
) -> None:
    def app(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        loop = gevent.get_hub().loop
        loop.run_callback(environ[HUB_WRITE], b"early")  # there is no head yet that it could follow
        gevent.sleep(0.001)
        start("200 OK", [])
        yield b"first"
        loop.run_callback(environ[HUB_WRITE], b"beat")
        gevent.sleep(0.001)
        yield b"last"

    body = rest(asked(app, version)).partition(b"\r\n\r\n")[2]
    assert b"early" not in body
    assert body.index(b"first") < body.index(framed) < body.index(b"last")


def test_a_client_that_takes_nothing_is_not_waited_for_in_the_hub(asked: Callable[..., socket]) -> None:
    spoken, full = Flag(), []

    def app(environ: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", [])
        yield b"first"
        try:
            while True:
                full.append(environ["gunicorn.sock"].send(BIG, 0, timeout=0.0))
        except OSError:
            pass  # there is room for nothing more

        def speak() -> None:
            environ[HUB_WRITE](b"beat")
            spoken.set()

        gevent.get_hub().loop.run_callback(speak)
        spoken.wait(5)
        yield b"last"

    client = asked(app)
    assert spoken.wait(5)
    arrived = rest(client)
    assert arrived.count(b"x") == sum(full)
    assert b"beat" not in arrived
    assert arrived.endswith(b"4\r\nlast\r\n0\r\n\r\n")


def test_half_a_piece_ends_the_connection() -> None:
    class Narrow:
        shut = 0

        def send(self, data: bytes, flags: int, timeout: float) -> int:
            return len(data) - 1

        def shutdown(self, how: int) -> None:
            self.shut += 1

    handler = Handler.__new__(Handler)
    handler.headers_sent, handler.response_use_chunked, handler.socket = True, True, Narrow()
    handler.write_from_hub(b"beat")
    assert handler.socket.shut == 1


def talking(monkeypatch: pytest.MonkeyPatch, head_s: float, idle_s: float) -> Iterator[socket]:
    """A connection to a server with one of its limits shortened."""
    monkeypatch.setattr(knowalledge.net.wsgi_server, "HEADERS_S", head_s)

    def app(_: dict[str, Any], start: Any) -> list[bytes]:
        start("200 OK", [("Content-Length", "3")])
        return [b"yes"]

    server = DrainingServer(("127.0.0.1", 0), app, handler_class=Handler, log=None, keepalive_s=idle_s)
    server.start()
    with create_connection(server.address) as client:
        client.settimeout(S)
        yield client
    server.stop()


@pytest.fixture
def idle(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket]:
    yield from talking(monkeypatch, S, SHORT)


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket]:
    yield from talking(monkeypatch, SHORT, S)


def test_a_connection_ends_when_it_was_silent_too_long_since_its_last_answer(idle: socket) -> None:
    for _ in range(4):  # longer in all than it may be silent
        gevent.sleep(SHORT / 2)
        idle.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert idle.recv(65536).endswith(b"yes")
    assert rest(idle) == b""


def test_a_head_that_does_not_end_is_refused_and_its_connection_ends(slow: socket) -> None:
    for _ in range(2):
        slow.sendall(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        assert slow.recv(65536).endswith(b"yes")
    slow.sendall(b"GET / HTTP/1.1\r\nhost: x\r\nx-half: ")
    assert rest(slow).startswith(b"HTTP/1.1 408 ")
