"""What every provider adapter must make of deadlines, connections that end, and bytes that are no answer."""

import gzip
import time

import gevent
import pytest

from knowalledge.core import errors as e
from knowalledge.gateway.ports import Provider
from tests.contract.conftest import PROMPT, SHORT, SOON, S, both, fails, says_and_hangs
from tests.contract.provider_dialects import Dialect
from tests.support.chunks import each
from tests.support.doubles import ManualClock
from tests.support.loopback import Loopback, Talk, replies, sse, streams


def test_a_refused_connection_is_unavailable(dialect: Dialect, server: Loopback) -> None:
    server.stop()
    fails(dialect.provider(server.url), e.ProviderUnavailable)


def test_a_name_that_is_nobody_is_unavailable(dialect: Dialect) -> None:
    fails(dialect.provider("http://nobody.invalid"), e.ProviderUnavailable)


def test_a_provider_that_hangs_meets_the_deadline(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = Talk.hang
    began = time.monotonic()
    fails(provider, e.ProviderTimeout, SHORT)
    assert time.monotonic() - began < S / 2
    assert server.empty.wait(S)  # and nothing stays open


def test_a_deadline_that_has_passed_asks_nothing(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    fails(provider, e.ProviderTimeout, 0.0)
    fails(provider, e.ProviderTimeout, -1.0)
    assert not server.asked


def test_bytes_that_trickle_do_not_extend_the_deadline(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def behave(talk: Talk) -> None:
        talk.begin()
        while True:
            talk.piece(b": still here\n\n")
            gevent.sleep(0.005)

    server.behaviour = behave
    fails(provider, e.ProviderTimeout, SHORT)


def test_a_stream_that_hangs_in_the_middle_meets_the_deadline(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = says_and_hangs(dialect)
    chunks = each(provider, PROMPT, SOON)
    assert next(chunks).text == "he"
    with gevent.Timeout(S / 2), pytest.raises(e.ProviderTimeout):
        next(chunks)
    assert server.empty.wait(S)


def test_the_time_that_the_consumer_takes_counts(dialect: Dialect, server: Loopback) -> None:
    clock = ManualClock()
    provider = dialect.provider(server.url, clock)

    server.behaviour = says_and_hangs(dialect)
    chunks = each(provider, PROMPT, S)
    assert next(chunks).text == "he"
    clock.time += S
    with gevent.Timeout(S / 2), pytest.raises(e.ProviderTimeout):
        next(chunks)
    provider.close()


def test_a_connection_that_ends_without_an_answer_is_unavailable(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for ending in (Talk.end, Talk.reset):
        server.behaviour = ending
        fails(provider, e.ProviderUnavailable)
    assert len(server.asked) == 4  # on a new connection nothing is sent twice


def test_an_answer_that_is_cut_is_garbage(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"
    for said in (b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nx: y\r\n", head, head + b'{"candidates"'):

        def behave(talk: Talk, said: bytes = said) -> None:
            talk.say(said)
            talk.end()

        server.behaviour = behave
        fails(provider, e.ProviderGarbage)


def test_a_stream_that_is_cut_after_some_text_is_garbage(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def cut(talk: Talk) -> None:
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        talk.end()

    for behaviour in (cut, streams(sse(dialect.event("he"))), streams(sse(dialect.event("he")), b"data: {")):
        server.behaviour = behaviour
        chunks = each(provider, PROMPT, S)
        assert next(chunks).text == "he"
        with pytest.raises(e.ProviderGarbage):
            list(chunks)


@pytest.mark.parametrize(
    "said",
    [
        b"\xff\xfe\x00garbage\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: -5\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ncontent-length: 3\r\n\r\n{}x",
        b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n\xff\xff\xff: 1\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n" * 10_000,
        b"HTTP/1.1 200 OK\r\nx: " + b"y" * 200_000,
    ],
)
def test_what_is_not_http_is_garbage(
    said: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def behave(talk: Talk) -> None:
        talk.say(said)
        talk.hang()

    server.behaviour = behave
    fails(provider, e.ProviderGarbage)
    assert len(server.asked) == 2  # and it is not asked for again


GARBAGE = [
    b"",
    b"null",
    b"[]",
    b"7",
    b'"text"',
    b"{",
    b"{}",
    b"\xff\xfe{}",
    b"<html></html>",
    b'{"candidates": {}, "choices": {}}',
    b'{"candidates": [], "choices": []}',
    b'{"candidates": null, "choices": null}',
    b'{"candidates": [7], "choices": [7]}',
    b'{"candidates": [{"content": 7}], "choices": [{"message": 7, "delta": 7}]}',
    b'{"candidates": [{"content": {"parts": [7]}}], "choices": [{"message": {"content": 7}, "delta": {"content": 7}}]}',
    b"[" * 100_000,
]


@pytest.mark.parametrize("body", GARBAGE, ids=range(len(GARBAGE)))
def test_what_is_not_an_answer_is_garbage(
    body: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(body)
    with pytest.raises(e.ProviderGarbage):
        provider.complete(PROMPT, S)
    server.behaviour = streams(sse(body))
    with pytest.raises(e.ProviderGarbage):
        list(each(provider, PROMPT, S))


def test_an_answer_that_says_nothing_and_stops_is_garbage(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(dialect.answer(""))
    with pytest.raises(e.ProviderGarbage):
        provider.complete(PROMPT, S)
    server.behaviour = streams(*dialect.stream(""))
    with pytest.raises(e.ProviderGarbage):
        list(each(provider, PROMPT, S))


def test_an_answer_without_end_is_given_up(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    mebibyte, sent = b" " * 2**20, 0

    def behave(talk: Talk) -> None:
        nonlocal sent
        sent = 0
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        while sent < 64:
            talk.piece(mebibyte)
            sent += 1

    server.behaviour = behave
    for ask in both(provider):
        with pytest.raises(e.ProviderGarbage):
            ask(S)
        assert server.empty.wait(S)
        assert 30 < sent < 60


def test_an_answer_may_be_compressed(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.behaviour = replies(gzip.compress(dialect.answer()), content_encoding="gzip")
    assert provider.complete(PROMPT, S).text == "hello"
    server.behaviour = streams(*dialect.stream("hel", "lo"), zipped=True)
    assert "".join(chunk.text for chunk in each(provider, PROMPT, S)) == "hello"
    server.behaviour = replies(gzip.compress(dialect.error(429)), 429, content_encoding="gzip")
    fails(provider, e.ProviderRateLimited)


def test_a_compressed_answer_without_its_checksum_is_cut(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(gzip.compress(dialect.answer())[:-6], content_encoding="gzip")
    with pytest.raises(e.ProviderGarbage, match="early"):
        provider.complete(PROMPT, S)


@pytest.mark.parametrize(
    ("body", "encoding"),
    [
        (b"not gzip", "gzip"),
        (gzip.compress(b"{}", mtime=0)[:-6], "gzip"),
        (gzip.compress(b" " * 40 * 2**20), "gzip"),
        (b"{}", "br"),
        (b"{}", "zstd"),
    ],
)
def test_compression_that_is_none_or_a_bomb_is_garbage(
    body: bytes, encoding: str, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(body, content_encoding=encoding)
    fails(provider, e.ProviderGarbage)
