"""The body of a request ends exactly where its head says, or cannot be read on."""

from io import BufferedReader, BytesIO
from typing import Any

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowalledge.net.wsgi_body import MAX_CHUNKS, MAX_TRAILERS, MalformedBody, RequestBody

NEXT = b"GET /next"


def stream_of(data: bytes) -> Any:
    return BufferedReader(BytesIO(data))


def chunked(data: bytes) -> tuple[RequestBody, Any]:
    stream = stream_of(data)
    return RequestBody(stream, None, chunked=True), stream


def test_a_body_of_known_length_ends_there_however_it_is_read() -> None:
    stream = stream_of(b"one\ntwo\nGET /next")
    body = RequestBody(stream, 8, chunked=False)
    assert (body.read(2), body.readline(), list(body), body.read(), body.ended) == (
        b"on",
        b"e\n",
        [b"two\n"],
        b"",
        True,
    )
    assert stream.read() == NEXT


def test_without_a_length_there_is_no_body() -> None:
    assert (RequestBody(stream_of(NEXT), None, False).ended, chunked(b"")[0].ended) == (
        True,
        False,
    )


def test_chunks_are_joined_and_their_extensions_and_trailers_are_left_out() -> None:
    body, stream = chunked(b"3;a=b\r\nabc\r\n0002\r\nde\r\n0\r\nX-Sum: 1\r\n\r\n" + NEXT)
    assert (body.read(4), body.ended, body.read(), body.ended) == (b"abcd", False, b"e", True)
    assert stream.read() == NEXT


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"3\r\nab",
        b"3\r\nabcd\r\n0\r\n\r\n",
        b"3\nabc\r\n0\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabc\r\n0\n\n",
        b"3\r\nabc\r\n0\r\n",
        b"3 \r\nabc\r\n0\r\n\r\n",
        b" 3\r\nabc\r\n0\r\n\r\n",
        b"+3\r\nabc\r\n0\r\n\r\n",
        b"0x3\r\nabc\r\n0\r\n\r\n",
        b"-1\r\n\r\n",
        b"3;a\x00\r\nabc\r\n0\r\n\r\n",
        b"3;a\rb\r\nabc\r\n0\r\n\r\n",
        b"3;" + b"a" * 2000 + b"\r\nabc\r\n0\r\n\r\n",
        b"10000000000000003\r\nabc\r\n0\r\n\r\n",
        b"\r\n",
        b"0\r\nno field\r\n\r\n",
        b"0\r\n" + b"a: b\r\n" * (MAX_TRAILERS + 1) + b"\r\n",
        b"1\r\na\r\n" * (MAX_CHUNKS + 1) + b"0\r\n\r\n",
    ],
)
def test_a_malformed_chunk_cannot_be_read_on(data: bytes) -> None:
    body, _ = chunked(data)
    with pytest.raises(MalformedBody):
        body.read()
    assert not body.ended


def test_a_body_that_ends_early_cannot_be_read_on() -> None:
    body = RequestBody(stream_of(b"abc"), 4, chunked=False)
    with pytest.raises(MalformedBody, match="early"):
        body.read()
    assert not body.ended


def by_h11(data: bytes) -> tuple[bytes, bytes] | None:
    """Body and rest, as an independent parser reads them; None if it refuses."""
    judge = h11.Connection(h11.SERVER)
    judge.receive_data(b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n" + data)
    judge.receive_data(b"")
    body = b""
    try:
        while True:
            event = judge.next_event()
            if isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                return body, judge.trailing_data[0]
            elif event is h11.NEED_DATA:
                return None
    except h11.RemoteProtocolError:
        return None


TOKENS = [
    b"0",
    b"1",
    b"3",
    b"a",
    b"F",
    b"\r\n",
    b"\r",
    b"\n",
    b";",
    b" ",
    b"x=y",
    b"abc",
    b": ",
    b"\x00",
    b"-",
]


@given(st.lists(st.sampled_from(TOKENS), max_size=14).map(b"".join))
def test_what_is_accepted_an_independent_parser_reads_in_the_same_way(tail: bytes) -> None:
    data = b"3\r\nabc\r\n" + tail
    body, stream = chunked(data)
    try:
        ours: tuple[bytes, bytes] | None = (body.read(), stream.read())
    except MalformedBody:
        ours = None
    if ours is not None:
        assert ours == by_h11(data)
