"""One connection for all greenlets: order, errors, loss, and silence."""

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
    raise AssertionError("nobody listens here")


@pytest.fixture
def pipe(redis_client: Redis, redis_url: str) -> Iterator[MultiplexedClient]:
    found = MultiplexedClient(redis_url, 5.0, no_pubsub)
    yield found
    found.close()


def test_every_greenlet_gets_its_own_reply_in_whatever_order_they_ask(pipe: MultiplexedClient) -> None:
    def ask(index: int) -> bytes:
        for turn in range(20):
            assert pipe.execute_command("ECHO", f"{index}-{turn}") == f"{index}-{turn}".encode()
        return b"done"

    asking = [gevent.spawn(ask, index) for index in range(100)]
    gevent.joinall(asking, raise_error=True)
    assert {it.value for it in asking} == {b"done"}


class Watched:
    """A line's socket, and what is written to it."""

    def __init__(self, pipe: MultiplexedClient) -> None:
        assert pipe._connection is not None
        self._line = pipe._connection
        self._true = self._line._socket
        self.writes: list[int] = []
        self.full = False  # for the next write

    def __enter__(self) -> Self:
        self._line._socket = self  # type: ignore[assignment]
        return self

    def __exit__(self, *_: object) -> None:
        self._line._socket = self._true

    def send(self, data: bytes) -> int:
        self.writes.append(len(data))
        if self.full:
            self.full = False
            raise BlockingIOError
        return self._true.send(data)

    def recv(self, size: int) -> bytes:
        return self._true.recv(size)


def test_what_is_asked_in_one_moment_is_written_at_once(pipe: MultiplexedClient, redis_client: Redis) -> None:
    pipe.execute_command("PING")
    with Watched(pipe) as seen:
        gevent.joinall([gevent.spawn(pipe.execute_command, "INCR", "k") for _ in range(50)], raise_error=True)
    assert len(seen.writes) == 1
    assert redis_client.get("k") == b"50"


def test_a_kernel_that_has_no_room_is_written_to_when_it_has_and_then_left_alone(
    pipe: MultiplexedClient,
) -> None:
    pipe.execute_command("PING")
    with Watched(pipe) as seen:
        seen.full = True
        assert pipe.execute_command("ECHO", "once") == b"once"
        gevent.sleep(0.01)
    assert len(seen.writes) == 2


def test_errors_are_those_of_the_ordinary_client_and_leave_the_line_whole(pipe: MultiplexedClient) -> None:
    with pytest.raises(NoScriptError):
        pipe.execute_command("EVALSHA", "0" * 40, 0)
    with pytest.raises(ResponseError, match="FORGOTTEN"):
        pipe.execute_command("EVAL", "return redis.error_reply('FORGOTTEN it')", 0)
    assert pipe.execute_command("PING") in (b"PONG", True)


def test_one_who_is_killed_while_waiting_does_not_shift_the_replies_of_the_others(
    pipe: MultiplexedClient,
) -> None:
    pipe.execute_command("PING")
    first = gevent.spawn(pipe.execute_command, "ECHO", "first")
    second = gevent.spawn(pipe.execute_command, "ECHO", "second")
    gevent.idle()
    first.kill()
    assert second.get(timeout=5) == b"second"


def test_a_lost_connection_is_told_to_all_who_wait_and_made_anew_for_the_next(
    pipe: MultiplexedClient, redis_client: Redis
) -> None:
    pipe.execute_command("PING")
    waiting = [gevent.spawn(pipe.execute_command, "BLPOP", "nothing", 30) for _ in range(3)]
    while not redis_client.info("clients")["blocked_clients"]:
        gevent.sleep(0.001)
    redis_client.client_kill_filter(_type="normal", skipme=True)
    gevent.joinall(waiting)
    assert {type(it.exception) for it in waiting} == {RedisConnectionError}
    assert pipe.execute_command("ECHO", "again") == b"again"


@pytest.fixture
def own_redis() -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    port = free_port()
    server = start_redis(port)
    yield port, server
    os.kill(server.pid, signal.SIGCONT)
    server.kill()
    server.wait()


def test_a_frozen_redis_costs_one_timeout_and_nobody_waits_for_ever(
    own_redis: tuple[int, "subprocess.Popen[bytes]"],
) -> None:
    port, server = own_redis
    pipe = MultiplexedClient(f"redis://127.0.0.1:{port}", 0.2, no_pubsub)
    pipe.execute_command("PING")
    os.kill(server.pid, signal.SIGSTOP)
    waiting = [gevent.spawn(pipe.execute_command, "PING") for _ in range(20)]
    gevent.joinall(waiting, timeout=5)
    assert {type(it.exception) for it in waiting} == {RedisTimeoutError}
    # Nor do those queue up for a timeout each who find the line lost.
    late = [gevent.spawn(pipe.execute_command, "PING") for _ in range(20)]
    with gevent.Timeout(2.0):
        gevent.joinall(late)
    assert all(isinstance(it.exception, RedisError) for it in late)
    os.kill(server.pid, signal.SIGCONT)
    assert pipe.execute_command("ECHO", "back") == b"back"
    pipe.close()


def test_nobody_there_is_a_connection_error() -> None:
    with pytest.raises(RedisConnectionError):
        MultiplexedClient(f"redis://127.0.0.1:{free_port()}/0", 1.0, no_pubsub).execute_command("PING")


def test_the_address_says_who_asks_and_which_database(
    own_redis: tuple[int, "subprocess.Popen[bytes]"],
) -> None:
    port, _ = own_redis
    with Redis(port=port) as client:
        client.config_set("requirepass", "s%cr:t/")
    pipe = MultiplexedClient(f"redis://:s%25cr%3At%2F@127.0.0.1:{port}/3", 1.0, no_pubsub)
    pipe.execute_command("SET", "here", 1)
    with Redis(port=port, password="s%cr:t/", db=3) as client:
        assert client.get("here") == b"1"
    pipe.close()
    with pytest.raises(AuthenticationError):
        MultiplexedClient(f"redis://:wrong@127.0.0.1:{port}/0", 1.0, no_pubsub).execute_command("PING")


def test_what_the_kernel_does_not_take_at_once_follows_when_it_has_room(pipe: MultiplexedClient) -> None:
    values = {f"k{index}": bytes([index]) * 1_000_000 for index in range(30)}
    gevent.joinall(
        [gevent.spawn(pipe.execute_command, "SET", *it) for it in values.items()], raise_error=True
    )
    assert {key: pipe.execute_command("GET", key) for key in values} == values


@pytest.fixture
def secure_redis(redis_url: str, certificate: Path) -> Iterator[int]:
    """The same Redis behind TLS: its own build has none."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    where = urlsplit(redis_url)

    def relay(wire: socket.socket) -> None:
        place = (where.hostname, where.port)
        with context.wrap_socket(wire, True) as outer, socket.create_connection(place) as inner:
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
        pass  # one of the two has gone, which ends both


def test_the_line_is_the_same_over_tls(
    secure_redis: int, redis_client: Redis, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    pipe = MultiplexedClient(f"rediss://127.0.0.1:{secure_redis}/0", 5.0, no_pubsub)
    values = {f"k{index}": bytes([index]) * 300_000 for index in range(20)}
    gevent.joinall(
        [gevent.spawn(pipe.execute_command, "SET", *it) for it in values.items()], raise_error=True
    )
    asking = {key: gevent.spawn(pipe.execute_command, "GET", key) for key in values}
    assert {key: it.get(timeout=10) for key, it in asking.items()} == values
    redis_client.client_kill_filter(_type="normal", skipme=True)
    with pytest.raises(RedisConnectionError):
        pipe.execute_command("PING")
    assert pipe.execute_command("PING") in (b"PONG", True)
    pipe.close()


def test_a_redis_whose_certificate_nobody_vouches_for_is_not_spoken_to(secure_redis: int) -> None:
    with pytest.raises(RedisConnectionError):
        MultiplexedClient(f"rediss://127.0.0.1:{secure_redis}/0", 5.0, no_pubsub).execute_command("PING")


def test_a_redis_that_never_shakes_hands_costs_one_timeout_and_no_connection_is_left() -> None:
    left = Event()

    def silent(wire: socket.socket) -> None:
        while wire.recv(65536):
            pass
        left.set()

    with listening(silent) as port:
        with pytest.raises(RedisTimeoutError):
            MultiplexedClient(f"rediss://127.0.0.1:{port}/0", 0.1, no_pubsub).execute_command("PING")
        assert left.wait(5)
