"""How every provider adapter keeps, shares and gives up its connections."""

import gc

import gevent
import pytest
from gevent.socket import socket as gevent_socket

from knowalledge.core import errors as e
from knowalledge.gateway.ports import Provider
from tests.contract.conftest import PROMPT, S, both, fails, says_and_hangs
from tests.contract.provider_dialects import Dialect
from tests.support.chunks import each
from tests.support.loopback import Behaviour, Loopback, Talk, replies, settle, streams


def test_calls_share_few_connections(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    def behave(talk: Talk) -> None:
        if b"stream" in talk.asked.line.encode() + talk.asked.body:
            streams(*dialect.stream("a", "b"))(talk)
        else:
            talk.reply(dialect.answer())

    server.behaviour = behave
    for ask in both(provider) * 10:
        ask(S)
    assert server.connections == 1
    gevent.joinall([gevent.spawn(ask, S) for ask in both(provider) * 100], raise_error=True)
    assert len(server.asked) == 220
    assert server.connections <= 201
    before = server.connections
    for _ in range(10):
        gevent.joinall([gevent.spawn(ask, S) for ask in both(provider) * 10], raise_error=True)
    assert server.connections == before


def test_a_refusal_keeps_its_connection(dialect: Dialect, provider: Provider, server: Loopback) -> None:
    server.behaviour = replies(dialect.error(429), 429)
    fails(provider, e.ProviderRateLimited)
    assert server.connections == 1


def test_closing_a_stream_closes_its_connection_at_once(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = says_and_hangs(dialect)
    settle()
    sockets = _sockets()
    chunks = each(provider, PROMPT, S)
    assert next(chunks).text == "he"
    assert server.open == 1
    chunks.close()
    assert server.empty.wait(S)
    assert _sockets() == sockets


def test_a_stream_that_was_never_begun_asks_nothing(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    each(provider, PROMPT, S).close()
    settle()
    assert not server.asked


def test_killing_whoever_waits_closes_the_connection(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = Talk.hang
    for ask in both(provider):
        waiting = gevent.spawn(ask, S)
        while not server.open:
            gevent.sleep(0.001)
        waiting.kill()
        assert server.empty.wait(S)


def test_a_kept_connection_that_ended_is_replaced_unseen(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    server.behaviour = replies(dialect.answer())
    provider.complete(PROMPT, S)
    server.drop()
    settle()
    assert provider.complete(PROMPT, S).text == "hello"
    assert len(server.asked) == 2


def _second_time(behaviour: Behaviour, dialect: Dialect) -> Behaviour:
    """Answers the first request of a connection, and does as told with the second."""

    def behave(talk: Talk) -> None:
        if talk.number == 1:
            talk.reply(dialect.answer())
        else:
            behaviour(talk)

    return behave


def test_a_request_that_crosses_the_end_of_its_kept_connection_is_sent_once_more(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    for ending in (Talk.end, Talk.reset):
        server.behaviour = _second_time(ending, dialect)
        server.asked.clear()
        provider.complete(PROMPT, S)
        assert provider.complete(PROMPT, S).text == "hello"
        assert len(server.asked) == 3
        server.drop()
        settle()


def test_a_request_that_was_answered_with_anything_is_not_sent_again(
    dialect: Dialect, provider: Provider, server: Loopback
) -> None:
    def mumble(talk: Talk) -> None:
        talk.say(b"HT")
        talk.end()

    def babble(talk: Talk) -> None:
        talk.say(b"\x00\xff")
        talk.end()

    for behaviour in (mumble, babble):
        server.behaviour = _second_time(behaviour, dialect)
        server.asked.clear()
        provider.complete(PROMPT, S)
        with pytest.raises(e.ProviderGarbage):
            provider.complete(PROMPT, S)
        assert len(server.asked) == 2


def _sockets() -> int:
    gc.collect()
    return sum(isinstance(it, gevent_socket) and it.fileno() >= 0 for it in gc.get_objects())
