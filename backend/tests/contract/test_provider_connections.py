"""How every provider adapter shares, reuses and closes its connections."""

import gc

import gevent
import pytest
from gevent.socket import socket as gevent_socket

from knowalledge.core import errors as e
from knowalledge.gateway.ports import Provider
from tests.contract.conftest import PROMPT, S, both, event_then_hang, fails
from tests.contract.provider_dialects import Dialect
from tests.support.chunks import each
from tests.support.loopback import Exchange, Handler, Loopback, replies, run_others, streams


def test_calls_share_few_connections(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    def handle(exchange: Exchange) -> None:
        if b"stream" in exchange.request.line.encode() + exchange.request.body:
            streams(*dialect.stream("a", "b"))(exchange)
        else:
            exchange.respond(dialect.answer())

    server.handler = handle
    for call in both(provider) * 10:
        call(S)
    assert server.connections == 1
    gevent.joinall([gevent.spawn(call, S) for call in both(provider) * 100], raise_error=True)
    assert len(server.requests) == 220
    assert server.connections <= 201
    before = server.connections
    for _ in range(10):
        gevent.joinall([gevent.spawn(call, S) for call in both(provider) * 10], raise_error=True)
    assert server.connections == before


def test_an_error_response_keeps_its_connection(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.error(429), 429)
    fails(provider, e.ProviderRateLimited)
    assert server.connections == 1


def test_closing_a_stream_closes_its_connection_at_once(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = event_then_hang(dialect)
    run_others()
    sockets = _sockets()
    chunks = each(provider, PROMPT, S)
    assert next(chunks).text == "he"
    assert server.open_connections == 1
    chunks.close()
    assert server.idle.wait(S)
    assert _sockets() == sockets


def test_a_stream_that_was_never_started_sends_no_request(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    each(provider, PROMPT, S).close()
    run_others()
    assert not server.requests


def test_killing_a_waiting_caller_closes_its_connection(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = Exchange.hang
    for call in both(provider):
        waiting = gevent.spawn(call, S)
        while not server.open_connections:
            gevent.sleep(0.001)
        waiting.kill()
        assert server.idle.wait(S)


def test_a_closed_idle_connection_is_replaced_without_an_error(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.handler = replies(dialect.answer())
    provider.complete(PROMPT, S)
    server.drop()
    run_others()
    assert provider.complete(PROMPT, S).text == "hello"
    assert len(server.requests) == 2


def _on_second_request(handler: Handler, dialect: Dialect) -> Handler:
    """Answers the first request of a connection; ``handler`` handles the second."""

    def handle(exchange: Exchange) -> None:
        if exchange.number == 1:
            exchange.respond(dialect.answer())
        else:
            handler(exchange)

    return handle


def test_a_request_that_crosses_the_close_of_its_idle_connection_is_sent_once_more(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for closing in (Exchange.close_after, Exchange.reset):
        server.handler = _on_second_request(closing, dialect)
        server.requests.clear()
        provider.complete(PROMPT, S)
        assert provider.complete(PROMPT, S).text == "hello"
        assert len(server.requests) == 3
        server.drop()
        run_others()


def test_a_request_is_not_repeated_after_any_byte_of_a_response(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def partial_http(exchange: Exchange) -> None:
        exchange.send(b"HT")
        exchange.close_after()

    def not_http(exchange: Exchange) -> None:
        exchange.send(b"\x00\xff")
        exchange.close_after()

    for handler in (partial_http, not_http):
        server.handler = _on_second_request(handler, dialect)
        server.requests.clear()
        provider.complete(PROMPT, S)
        with pytest.raises(e.ProviderGarbage):
            provider.complete(PROMPT, S)
        assert len(server.requests) == 2


def _sockets() -> int:
    gc.collect()
    return sum(isinstance(it, gevent_socket) and it.fileno() >= 0 for it in gc.get_objects())
