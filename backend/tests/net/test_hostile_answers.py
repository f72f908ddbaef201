"""What a faulty or hostile provider sends reaches no other caller, and takes no more memory than it may."""

import gzip
import random
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import gevent
import pytest
from gevent.socket import socket
from hypothesis import given
from hypothesis import strategies as st

from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.net.http import client
from knowalledge.net.http import connection as wire
from knowalledge.net.http.budget import UNIT, ResponseBudget
from knowalledge.net.http.client import HttpClient, Response
from knowalledge.net.http.connection import MAX_BODY, SMALL
from knowalledge.net.http.decoding import FREE, MAX_RATIO, Decompressor
from tests.support.doubles import ManualClock
from tests.support.loopback import Exchange, Loopback, listening, serving

S, SHORT = 20.0, 0.05
OTHER = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nothers"
YES = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nyes"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Loopback]:
    monkeypatch.setattr(client, "SETTLE_S", 0.01)
    with serving(lambda exchange: exchange.respond(b"mine")) as server:
        yield server


@pytest.fixture
def make_client(server: Loopback) -> Iterator[Callable[..., HttpClient]]:
    made: list[HttpClient] = []

    def make() -> HttpClient:
        made.append(HttpClient(server.url, SystemClock()))
        return made[-1]

    yield make
    for http in made:
        http.close()


def get(http: HttpClient) -> bytes:
    return http.get("/", b"", S).body


# -- the next caller ---------------------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        OTHER,
        YES,
        b"HTTP/1.1 204 No\r\n\r\n",
        b"HTTP/1.1 204 No\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 304 No\r\ncontent-length: 6\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Other\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nothers\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ncontent-length: 3\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\ncontent-length: 6\r\n\r\nothers",
        b"HTTP/1.1 200 OK\r\nconte",
        b"nt-length: 6\r\n\r\nothers",
        b"others",
        b"0\r\n\r\n",
        b"\r\n",
        b"x",
    ]
)


@given(
    pieces=st.lists(PIECES, min_size=1, max_size=5),
    streams=st.booleans(),
    wait_s=st.sampled_from((0.0, 0.002)),
)
def test_no_byte_of_one_answer_reaches_the_next_caller(
    pieces: list[bytes], streams: bool, wait_s: float
) -> None:
    def hostile(exchange: Exchange) -> None:
        if exchange.request.path != "/a":
            exchange.respond(b"mine")
            return
        for piece in pieces:
            exchange.send(piece)
            gevent.sleep(wait_s)

    with serving(hostile) as server, pytest.MonkeyPatch.context() as patch:
        patch.setattr(client, "SETTLE_S", 0.01)
        http = HttpClient(server.url, SystemClock())
        try:
            if streams:
                list(http.events("/a", b"", b"", SHORT))
            else:
                http.get("/a", b"", SHORT)
        except e.ProviderError:
            pass
        for _ in range(3):
            assert get(http) == b"mine"
        http.close()


def test_a_server_that_speaks_first_is_not_asked_again_on_that_connection() -> None:
    """It answers the connection at once, and the request after that: the second answer is nobody's."""
    asked: list[int] = []

    def eager(sock: socket) -> None:
        sock.sendall(OTHER)
        while sock.recv(65536):
            asked.append(sock.fileno())
            gevent.sleep(0.02)
            sock.sendall(OTHER)

    with listening(eager) as port:
        http = HttpClient(f"http://127.0.0.1:{port}", SystemClock())
        real = wire._open_socket

        def opened(*args: Any) -> socket:
            found = real(*args)
            gevent.sleep(0.05)  # the server speaks
            return found

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(wire, "_open_socket", opened)
            assert get(http) == b"others"
        assert http._pool.idle == deque()
        http.close()


def test_after_bytes_beyond_an_answer_no_connection_is_reused_for_a_while(server: Loopback) -> None:
    clock = ManualClock()
    http = HttpClient(server.url, clock)
    assert get(http) == b"mine"
    clock.sleep(1)
    server.handler = lambda exchange: exchange.send(YES + OTHER)
    with pytest.raises(e.ProviderGarbage):
        get(http)
    server.handler = lambda exchange: exchange.respond(b"mine")
    before = server.connections
    for _ in range(3):
        clock.sleep(1)
        assert get(http) == b"mine"
    assert server.connections == before + 3
    clock.sleep(client.DISTRUST_S)
    assert [get(http), get(http)] == [b"mine", b"mine"]
    http.close()


def test_a_connection_is_reused_once_it_has_been_silent(
    make_client: Callable[..., HttpClient], server: Loopback
) -> None:
    http = make_client()
    for _ in range(3):
        assert get(http) == b"mine"
        gevent.sleep(0.02)
    assert server.connections == 1


# -- memory ------------------------------------------------------------------------------------------------------------


def test_a_body_that_expands_too_far_is_refused_before_it_has() -> None:
    bomb = zlib.compress(b"0" * 64 * FREE)
    with pytest.raises(e.ProviderGarbage, match="expands"):
        Decompressor()(bomb)


@pytest.mark.parametrize("step", [7, 10_000_000])
def test_a_body_within_the_ratio_is_expanded_whole_in_any_pieces(step: int) -> None:
    dice = random.Random(1)
    plain = b"".join(dice.choice((b"alpha ", b"beta ", b"gamma\n")) for _ in range(400_000))
    packed, expand = gzip.compress(plain), Decompressor()
    assert FREE < len(plain) < len(packed) * MAX_RATIO
    assert b"".join(expand(packed[at : at + step]) for at in range(0, len(packed), step)) == plain
    assert expand.ended


def test_large_responses_wait_for_each_other_and_small_ones_do_not(
    make_client: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LARGE", ResponseBudget(4 * UNIT))
    large, sent = b"x" * (3 * SMALL), []

    def handle(exchange: Exchange) -> None:
        if exchange.request.path == "/small":
            exchange.respond(b"small")
            return
        exchange.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(large))
        exchange.send(large[: 2 * SMALL])
        sent.append(True)
        gevent.sleep(SHORT)
        exchange.send(large[2 * SMALL :])

    server.handler = handle
    http = make_client()
    readers = [gevent.spawn(get, http) for _ in range(3)]
    gevent.sleep(SHORT / 2)
    assert http.get("/small", b"", S).body == b"small"
    assert [it.get(timeout=S) for it in readers] == [large] * 3
    assert wire.LARGE.acquire(4 * UNIT, 0.01) == 4


def test_a_large_response_that_gets_no_memory_ends_at_its_deadline_and_leaves_nothing(
    make_client: Callable[..., HttpClient], server: Loopback, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wire, "LARGE", ResponseBudget(4 * UNIT))
    server.handler = lambda exchange: exchange.respond(b"x" * (2 * SMALL))
    held = wire.LARGE.acquire(4 * UNIT, S)
    with pytest.raises(e.ProviderTimeout):
        make_client().get("/", b"", SHORT)
    wire.LARGE.release(held)
    assert get(make_client()) == b"x" * (2 * SMALL)
    assert wire.LARGE.acquire(4 * UNIT, 0.01) == 4


@pytest.mark.parametrize("streams", [False, True])
def test_above_the_largest_size_a_response_is_refused(
    make_client: Callable[..., HttpClient], server: Loopback, streams: bool
) -> None:
    def endless(exchange: Exchange) -> None:
        exchange.start_stream()
        while True:
            exchange.send_chunk(b"x" * SMALL)

    server.handler = endless
    http = make_client()
    call: Any = (lambda: list(http.events("/", b"", b"", S))) if streams else (lambda: get(http))
    with pytest.raises(e.ProviderGarbage, match="too large"):
        call()
    assert wire.LARGE.acquire(MAX_BODY, 0.01) == MAX_BODY // UNIT
    wire.LARGE.release(MAX_BODY // UNIT)


# -- numbers and dates -------------------------------------------------------------------------------------------------

DATES = st.sampled_from(
    [
        "Mon, 01 Jan 2024 00:00:00 GMT",
        "Mon, 01 Jan 99999999999999999999 00:00:00 GMT",
        "Mon, 99999999999999999999 Jan 2024 00:00:00 +99999999999",
        "Mon, 01 Jan 2024 00:00:00 -9999999999999999",
        "",
        "9" * 500,
        "1e999",
        "nan",
        "-1",
        "\u00b2",
    ]
)


@given(
    after=DATES | st.text(max_size=40),
    date=DATES | st.text(max_size=40),
    milliseconds=st.one_of(st.none(), DATES),
)
def test_any_retry_after_is_bounded_or_none(after: str, date: str, milliseconds: str | None) -> None:
    headers = {"retry-after": after, "date": date}
    if milliseconds is not None:
        headers["retry-after-ms"] = milliseconds
    seconds = Response(429, headers, b"").retry_after()
    assert seconds is None or 0 <= seconds <= 7 * 86_400
