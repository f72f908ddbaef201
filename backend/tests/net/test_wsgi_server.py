"""Clients that are silent, slow or too many hold nothing for long, and every probe gets in."""

import gc
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.pool import Pool
from gevent.socket import SHUT_WR, create_connection, socket

from knowalledge.net import wsgi_body, wsgi_server
from knowalledge.net.wsgi_server import MAX_SKIPPED, RESERVED, DrainingServer, Handler

S, SHORT = 20.0, 0.2
GET = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"
PIECE = b"x" * 1_000_000


class Stage:
    """A server with an application, and what it refused."""

    def __init__(self, app: Any, limit: int | None = None) -> None:
        self.refused: list[int] = []
        self.server = DrainingServer(
            ("127.0.0.1", 0),
            app,
            handler_class=Handler,
            log=None,
            spawn=Pool(limit + RESERVED) if limit else "default",
            on_refusal=lambda status, _: self.refused.append(status),
        )
        self.server.start()
        self.clients: list[socket] = []

    def client(self, sent: bytes = b"") -> socket:
        client = create_connection(self.server.address)
        client.settimeout(S)
        self.clients.append(client)
        client.sendall(sent)
        return client

    def stop(self) -> None:
        for client in self.clients:
            client.close()
        self.server.stop()


@pytest.fixture
def stage() -> Iterator[Callable[..., Stage]]:
    stages: list[Stage] = []

    def make(app: Any, limit: int | None = None) -> Stage:
        stages.append(Stage(app, limit))
        return stages[-1]

    yield make
    for each in stages:
        each.stop()


def rest(client: socket) -> bytes:
    """All that arrives until the connection ends."""
    return b"".join(iter(lambda: client.recv(65536), b""))


def echo(environ: dict[str, Any], start: Any) -> list[bytes]:
    """The body, or 400 if it cannot be read."""
    try:
        body = environ["wsgi.input"].read()
    except OSError:
        start("400 Bad Request", [])
        return [b"cut"]
    start("200 OK", [])
    return [body]


def unread(_: dict[str, Any], start: Any) -> list[bytes]:
    start("404 Not Found", [])
    return [b"no"]


class Endless:
    """A body that never ends; ``closed`` once the server has given it up."""

    def __init__(self) -> None:
        self.closed = Event()

    def __call__(self, _: dict[str, Any], start: Any) -> "Endless":
        start("200 OK", [])
        return self

    def __iter__(self) -> Iterator[bytes]:
        while True:
            yield PIECE

    def close(self) -> None:
        self.closed.set()


def test_a_body_that_does_not_come_is_answered_once_and_its_connection_ends(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi_body, "SILENCE_S", SHORT)
    client = stage(echo).client(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 9\r\n\r\nab")
    answer = rest(client)
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert answer.endswith(b"cut")
    assert answer.count(b"HTTP/1.1") == 1


def test_a_body_that_drips_is_cut_though_it_is_never_silent(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi_body, "SILENCE_S", SHORT)
    client = stage(echo).client(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 999\r\n\r\n")

    def drip() -> None:
        for _ in range(400):
            client.sendall(b"x")
            gevent.sleep(SHORT / 10)

    dripping = gevent.spawn(drip)
    assert rest(client).startswith(b"HTTP/1.1 400 ")
    dripping.kill()


@pytest.mark.parametrize(("length", "lives"), [(10, True), (MAX_SKIPPED + 1, False)])
def test_a_body_that_nobody_read_is_skipped_if_it_is_there_and_small(
    stage: Callable[..., Stage], length: int, lives: bool
) -> None:
    request = b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (length, b"y" * length)
    client = stage(unread).client(request * 2)
    client.shutdown(SHUT_WR)
    answer = rest(client)
    assert answer.count(b"HTTP/1.1 404") == (2 if lives else 1)
    assert (b"Connection: close" in answer) is not lives


@pytest.mark.parametrize("reads", [False, True])
def test_a_reader_that_stalls_or_drips_ends_its_answer(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr(wsgi_server, "WRITE_S", SHORT)
    monkeypatch.setattr(wsgi_server, "MIN_RATE", 1e9)
    app = Endless()
    client = stage(app).client(GET)

    def drip() -> None:
        while client.recv(4096):
            gevent.sleep(SHORT / 20)

    dripping = gevent.spawn(drip) if reads else None
    assert app.closed.wait(S)
    if dripping is not None:
        dripping.kill()


def test_a_reader_that_keeps_up_is_served_for_longer_than_one_may_stall(
    stage: Callable[..., Stage], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wsgi_server, "WRITE_S", SHORT)

    def app(_: Any, start: Any) -> Iterator[bytes]:
        start("200 OK", [("Content-Length", str(8 * len(PIECE)))])
        return iter([PIECE] * 8)

    client = stage(app).client(GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n"))
    received = 0
    while more := client.recv(200_000):
        received += len(more)
        gevent.sleep(SHORT / 20)
    assert received > 8 * len(PIECE)


def test_a_new_connection_takes_the_place_of_the_one_that_never_spoke_then_of_the_longest_idle(
    stage: Callable[..., Stage],
) -> None:
    scene = stage(echo, limit=3)
    kept = [scene.client(GET) for _ in range(2)]
    for client in kept:
        assert client.recv(65536)
    silent = scene.client()
    gevent.sleep(0.05)
    assert scene.client(GET).recv(65536).startswith(b"HTTP/1.1 200")
    assert rest(silent) == b""
    assert scene.client(GET).recv(65536).startswith(b"HTTP/1.1 200")
    assert rest(kept[0]) == b""
    kept[1].sendall(GET)
    assert kept[1].recv(65536).startswith(b"HTTP/1.1 200")
    assert scene.refused == []


def test_when_all_connections_are_busy_probes_are_answered_and_others_come_back_later(
    stage: Callable[..., Stage],
) -> None:
    release = Event()

    def app(environ: dict[str, Any], start: Any) -> list[bytes]:
        if environ["PATH_INFO"] == "/":
            release.wait(S)
        start("200 OK", [])
        return [b"yes"]

    scene = stage(app, limit=2)
    busy = [scene.client(GET) for _ in range(2)]
    gevent.sleep(0.05)
    refused = rest(scene.client(GET))
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"Retry-After: 1\r\n" in refused
    for path in wsgi_server.PROBES:
        probe = rest(scene.client(b"GET %b HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n" % path.encode()))
        assert probe.startswith(b"HTTP/1.1 200 ")
    assert scene.refused == [503]
    release.set()
    for client in busy:
        assert client.recv(65536).startswith(b"HTTP/1.1 200 ")


def test_what_the_server_refuses_is_recorded(stage: Callable[..., Stage]) -> None:
    scene = stage(echo)
    assert rest(scene.client(b"GET /\r\n\r\n")).startswith(b"HTTP/1.1 400 ")
    assert rest(scene.client(b"GET /" + b"a" * 9000)).startswith(b"HTTP/1.1 414 ")
    assert rest(scene.client(b"GET / HTTP/2.0\r\n\r\n")).startswith(b"HTTP/1.1 505 ")
    assert scene.refused == [400, 414, 505]


def test_an_application_that_fails_is_answered_once_and_recorded(
    stage: Callable[..., Stage], capsys: pytest.CaptureFixture[str]
) -> None:
    def app(_: dict[str, Any], __: Any) -> list[bytes]:
        raise ValueError("a prompt")

    scene = stage(app)
    assert rest(scene.client(GET + GET)).count(b"HTTP/1.1 500 ") == 1
    assert scene.refused == [500]
    capsys.readouterr()


def test_the_answer_to_head_has_no_body(stage: Callable[..., Stage]) -> None:
    def app(_: dict[str, Any], start: Any) -> Iterator[bytes]:
        start("200 OK", [])
        return iter([b"yes", b"no"])

    client = stage(app).client(
        GET.replace(b"GET", b"HEAD") + GET.replace(b"\r\n\r\n", b"\r\nconnection: close\r\n\r\n")
    )
    head, _, after = rest(client).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 200 ")
    assert after.startswith(b"HTTP/1.1 200 ")


def test_a_connection_that_has_ended_leaves_no_garbage(stage: Callable[..., Stage]) -> None:
    handlers: list[weakref.ref[Handler]] = []

    class Watched(Handler):
        def handle(self) -> None:
            handlers.append(weakref.ref(self))
            super().handle()

    scene = stage(echo)
    scene.server.handler_class = Watched
    gc.collect()
    gc.disable()
    try:
        for _ in range(5):
            client = scene.client(
                b"POST / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 1\r\n\r\nx"
            )
            assert rest(client).endswith(b"x")
        gevent.sleep(0.05)
        assert [it() for it in handlers] == [None] * 5
    finally:
        gc.enable()
