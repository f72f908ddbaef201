"""One connection for all greenlets: order of replies, errors, connection loss and timeouts."""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

import gevent
import pytest
from gevent import socket, ssl
from gevent.event import Event
from redis import Redis
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from bench.ports import free_port
from knowalledge.net.redis.multiplexed import MultiplexedClient
from tests.conftest import start_redis
from tests.support.loopback import listening


def no_pubsub(**options: Any) -> None:
    raise AssertionError("unexpected subscription")


@pytest.fixture
def client(redis_client: Redis, redis_url: str) -> Iterator[MultiplexedClient]:
    client = MultiplexedClient(redis_url, 5.0, no_pubsub)
    yield client
    client.close()


def test_every_greenlet_gets_its_own_replies(client: MultiplexedClient) -> None:
    def echo(index: int) -> bytes:
        for turn in range(20):
            assert client.execute_command("ECHO", f"{index}-{turn}") == f"{index}-{turn}".encode()
        return b"done"

    greenlets = [gevent.spawn(echo, index) for index in range(100)]
    gevent.joinall(greenlets, raise_error=True)
    assert {it.value for it in greenlets} == {b"done"}


class RecordedWrites:
    """Replaces the socket of a client's connection, and records its writes."""

    def __init__(self, client: MultiplexedClient) -> None:
        assert client._connection is not None
        self._connection = client._connection
        self._real = self._connection._socket
        self.writes: list[int] = []
        self.full = False  # for the next write

    def __enter__(self) -> Self:
        self._connection._socket = self  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self._connection._socket = self._real

    def send(self, data: bytes) -> int:
        self.writes.append(len(data))
        if self.full:
            self.full = False
            raise BlockingIOError
        return self._real.send(data)

    def recv(self, size: int) -> bytes:
        return self._real.recv(size)


def test_commands_of_the_same_moment_share_one_write(client: MultiplexedClient, redis_client: Redis) -> None:
    client.execute_command("PING")
    with RecordedWrites(client) as recorded:
        gevent.joinall(
            [gevent.spawn(client.execute_command, "INCR", "k") for _ in range(50)], raise_error=True
        )
    assert len(recorded.writes) == 1
    assert redis_client.get("k") == b"50"


def test_a_full_socket_buffer_is_written_to_when_it_has_space_and_then_no_more(
    client: MultiplexedClient,
) -> None:
    client.execute_command("PING")
    with RecordedWrites(client) as recorded:
        recorded.full = True
        assert client.execute_command("ECHO", "once") == b"once"
        gevent.sleep(0.01)
    assert len(recorded.writes) == 2


def test_errors_are_those_of_redis_py_and_leave_the_connection_usable(client: MultiplexedClient) -> None:
    with pytest.raises(NoScriptError):
        client.execute_command("EVALSHA", "0" * 40, 0)
    with pytest.raises(ResponseError, match="FORGOTTEN"):
        client.execute_command("EVAL", "return redis.error_reply('FORGOTTEN it')", 0)
    assert client.execute_command("PING") in (b"PONG", True)


def test_killing_a_waiting_caller_does_not_shift_the_replies_of_the_others(
    client: MultiplexedClient,
) -> None:
    client.execute_command("PING")
    first = gevent.spawn(client.execute_command, "ECHO", "first")
    second = gevent.spawn(client.execute_command, "ECHO", "second")
    gevent.idle()
    first.kill()
    assert second.get(timeout=5) == b"second"


def test_a_lost_connection_fails_all_waiting_calls_and_is_reopened_by_the_next(
    client: MultiplexedClient, redis_client: Redis
) -> None:
    client.execute_command("PING")
    waiting = [gevent.spawn(client.execute_command, "BLPOP", "nothing", 30) for _ in range(3)]
    while not redis_client.info("clients")["blocked_clients"]:
        gevent.sleep(0.001)
    redis_client.client_kill_filter(_type="normal", skipme=True)
    gevent.joinall(waiting)
    assert {type(it.exception) for it in waiting} == {RedisConnectionError}
    assert client.execute_command("ECHO", "again") == b"again"


@pytest.fixture
def own_redis() -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    port = free_port()
    server = start_redis(port)
    yield port, server
    os.kill(server.pid, signal.SIGCONT)
    server.kill()
    server.wait()


def test_a_frozen_redis_costs_one_timeout(
    own_redis: tuple[int, "subprocess.Popen[bytes]"],
) -> None:
    port, server = own_redis
    client = MultiplexedClient(f"redis://127.0.0.1:{port}", 0.2, no_pubsub)
    client.execute_command("PING")
    os.kill(server.pid, signal.SIGSTOP)
    waiting = [gevent.spawn(client.execute_command, "PING") for _ in range(20)]
    gevent.joinall(waiting, timeout=5)
    assert {type(it.exception) for it in waiting} == {RedisTimeoutError}
    # Further calls share one attempt to connect instead of one timeout each.
    late = [gevent.spawn(client.execute_command, "PING") for _ in range(20)]
    with gevent.Timeout(2.0):
        gevent.joinall(late)
    assert all(isinstance(it.exception, RedisError) for it in late)
    os.kill(server.pid, signal.SIGCONT)
    assert client.execute_command("ECHO", "back") == b"back"
    client.close()


def test_an_unreachable_redis_is_a_connection_error() -> None:
    with pytest.raises(RedisConnectionError):
        MultiplexedClient(f"redis://127.0.0.1:{free_port()}/0", 1.0, no_pubsub).execute_command("PING")


def test_the_url_has_password_and_database(
    own_redis: tuple[int, "subprocess.Popen[bytes]"],
) -> None:
    port, _ = own_redis
    with Redis(port=port) as redis:
        redis.config_set("requirepass", "s%cr:t/")
    client = MultiplexedClient(f"redis://:s%25cr%3At%2F@127.0.0.1:{port}/3", 1.0, no_pubsub)
    client.execute_command("SET", "here", 1)
    with Redis(port=port, password="s%cr:t/", db=3) as redis:
        assert redis.get("here") == b"1"
    client.close()
    with pytest.raises(AuthenticationError):
        MultiplexedClient(f"redis://:wrong@127.0.0.1:{port}/0", 1.0, no_pubsub).execute_command("PING")


def test_large_commands_are_written_in_several_parts(client: MultiplexedClient) -> None:
    values = {f"k{index}": bytes([index]) * 1_000_000 for index in range(30)}
    gevent.joinall(
        [gevent.spawn(client.execute_command, "SET", *it) for it in values.items()], raise_error=True
    )
    assert {key: client.execute_command("GET", key) for key in values} == values


@pytest.fixture
def secure_redis(redis_url: str, certificate: Path) -> Iterator[int]:
    """The same Redis behind a TLS relay: its build has no TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    parts = urlsplit(redis_url)

    def relay(wire: socket.socket) -> None:
        address = (parts.hostname, parts.port)
        with context.wrap_socket(wire, True) as outer, socket.create_connection(address) as inner:
            gevent.spawn(_copy, inner, outer)
            _copy(outer, inner)

    with listening(relay) as port:
        yield port


def _copy(source: socket.socket, target: socket.socket) -> None:
    try:
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # one side has disconnected, which ends both


def test_tls_connections_work_and_fail_like_plain_ones(
    secure_redis: int, redis_client: Redis, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    client = MultiplexedClient(f"rediss://127.0.0.1:{secure_redis}/0", 5.0, no_pubsub)
    values = {f"k{index}": bytes([index]) * 300_000 for index in range(20)}
    gevent.joinall(
        [gevent.spawn(client.execute_command, "SET", *it) for it in values.items()], raise_error=True
    )
    replies = {key: gevent.spawn(client.execute_command, "GET", key) for key in values}
    assert {key: it.get(timeout=10) for key, it in replies.items()} == values
    redis_client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(RedisConnectionError):
        client.execute_command("PING")
    assert client.execute_command("PING") in (b"PONG", True)
    client.close()


def test_a_certificate_of_an_unknown_authority_is_a_connection_error(secure_redis: int) -> None:
    with pytest.raises(RedisConnectionError):
        MultiplexedClient(f"rediss://127.0.0.1:{secure_redis}/0", 5.0, no_pubsub).execute_command("PING")


def test_a_tls_handshake_that_hangs_costs_one_timeout_and_leaves_no_connection() -> None:
    disconnected = Event()

    def silent(wire: socket.socket) -> None:
        while wire.recv(65536):
            pass
        disconnected.set()

    with listening(silent) as port:
        with pytest.raises(RedisTimeoutError):
            MultiplexedClient(f"rediss://127.0.0.1:{port}/0", 0.1, no_pubsub).execute_command("PING")
        assert disconnected.wait(5)
