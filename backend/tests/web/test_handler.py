"""An answer on the wire: framed as it must be, in as few sends as can be."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from gevent.socket import SHUT_WR, create_connection

from knowalledge.server import TOGETHER, DrainingServer, Handler

BIG = b"x" * (TOGETHER + 1)


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
