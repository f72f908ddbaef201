"""How every provider adapter handles deadlines, closed connections, and malformed responses."""

import gzip
import time

import gevent
import pytest

from knowalledge.core import errors as e
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.ports import Provider
from tests.contract.conftest import PROMPT, SHORT, SOON, S, both, event_then_hang, fails
from tests.contract.provider_dialects import Dialect
from tests.support.chunks import each
from tests.support.doubles import ManualClock
from tests.support.loopback import Exchange, Loopback, replies, sse, streams


def test_a_refused_connection_is_unavailable(dialect: Dialect, server: Loopback) -> None:
    server.stop()
    fails(dialect.provider(server.url), e.ProviderUnavailable)


def test_an_unknown_host_is_unavailable(dialect: Dialect) -> None:
    fails(dialect.provider("http://nobody.invalid"), e.ProviderUnavailable)


def test_a_provider_that_hangs_times_out(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.handler = Exchange.hang
    started = time.monotonic()
    fails(provider, e.ProviderTimeout, SHORT)
    assert time.monotonic() - started < S / 2
    assert server.idle.wait(S)  # no connection stays open


def test_an_expired_deadline_sends_no_request(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    fails(provider, e.ProviderTimeout, 0.0)
    fails(provider, e.ProviderTimeout, -1.0)
    assert not server.requests


def test_arriving_bytes_do_not_extend_the_deadline(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.start_stream()
        while True:
            exchange.send_chunk(b": still here\n\n")
            gevent.sleep(0.005)

    server.handler = handle
    fails(provider, e.ProviderTimeout, SHORT)


def test_a_stream_that_hangs_in_the_middle_times_out(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = event_then_hang(dialect)
    chunks = each(provider, PROMPT, SOON)
    assert next(chunks).text == "he"
    with gevent.Timeout(S / 2), pytest.raises(e.ProviderTimeout):
        next(chunks)
    assert server.idle.wait(S)


def test_the_deadline_includes_the_time_of_the_consumer(dialect: Dialect, server: Loopback) -> None:
    clock = ManualClock()
    provider = dialect.provider(server.url, clock)

    server.handler = event_then_hang(dialect)
    chunks = each(provider, PROMPT, S)
    assert next(chunks).text == "he"
    clock.time += S
    with gevent.Timeout(S / 2), pytest.raises(e.ProviderTimeout):
        next(chunks)
    provider.close()


def test_a_connection_that_closes_without_a_response_is_unavailable(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for closing in (Exchange.close_after, Exchange.reset):
        server.handler = closing
        fails(provider, e.ProviderUnavailable)
    assert len(server.requests) == 4  # on a new connection nothing is sent twice


def test_a_truncated_response_is_garbage(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    head = b"HTTP/1.1 200 OK\r\ncontent-length: 9999\r\n\r\n"
    for sent in (b"HTTP/1.1 20", b"HTTP/1.1 200 OK\r\nx: y\r\n", head, head + b'{"candidates"'):

        def handle(exchange: Exchange, sent: bytes = sent) -> None:
            exchange.send(sent)
            exchange.close_after()

        server.handler = handle
        fails(provider, e.ProviderGarbage)


def test_a_stream_that_is_truncated_after_some_text_is_garbage(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def cut(exchange: Exchange) -> None:
        exchange.start_stream()
        exchange.send_chunk(sse(dialect.event("he")))
        exchange.close_after()

    for handler in (cut, streams(sse(dialect.event("he"))), streams(sse(dialect.event("he")), b"data: {")):
        server.handler = handler
        chunks = each(provider, PROMPT, S)
        assert next(chunks).text == "he"
        with pytest.raises(e.ProviderGarbage):
            list(chunks)


@pytest.mark.parametrize(
    "sent",
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
    sent: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def handle(exchange: Exchange) -> None:
        exchange.send(sent)
        exchange.hang()

    server.handler = handle
    fails(provider, e.ProviderGarbage)
    assert len(server.requests) == 2  # no request is repeated


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
def test_a_body_without_an_answer_is_garbage(
    body: bytes, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(body)
    with pytest.raises(e.ProviderGarbage):
        provider.complete(PROMPT, S)
    server.handler = streams(sse(body))
    with pytest.raises(e.ProviderGarbage):
        list(each(provider, PROMPT, S))


def test_an_empty_answer_that_ends_normally_is_an_answer(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.answer(""))
    answer = provider.complete(PROMPT, S)
    assert (answer.parts, answer.finish, answer.usage) == ((), Finish.STOP, dialect.usage)
    server.handler = streams(*dialect.stream(""))
    last = list(each(provider, PROMPT, S))[-1]
    assert (last.text, last.finish) == ("", Finish.STOP)


def test_an_endless_response_is_abandoned(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    mebibyte, sent = b" " * 2**20, 0

    def handle(exchange: Exchange) -> None:
        nonlocal sent
        sent = 0
        exchange.start_stream()
        exchange.send_chunk(sse(dialect.event("he")))
        while sent < 64:
            exchange.send_chunk(mebibyte)
            sent += 1

    server.handler = handle
    for call in both(provider):
        with pytest.raises(e.ProviderGarbage):
            call(S)
        assert server.idle.wait(S)
        assert 30 < sent < 60


def test_a_response_may_be_compressed(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.handler = replies(gzip.compress(dialect.answer()), content_encoding="gzip")
    assert provider.complete(PROMPT, S).text == "hello"
    server.handler = streams(*dialect.stream("hel", "lo"), zipped=True)
    assert "".join(chunk.text for chunk in each(provider, PROMPT, S)) == "hello"
    server.handler = replies(gzip.compress(dialect.error(429)), 429, content_encoding="gzip")
    fails(provider, e.ProviderRateLimited)


def test_a_compressed_response_without_its_checksum_is_truncated(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(gzip.compress(dialect.answer())[:-6], content_encoding="gzip")
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
def test_invalid_compression_or_a_zip_bomb_is_garbage(
    body: bytes, encoding: str, dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(body, content_encoding=encoding)
    fails(provider, e.ProviderGarbage)
