"""One connection to Redis for all greenlets of a process: commands issued at the same moment share one write.

A connection pool takes one connection for each concurrent command, and a write and a read for each. Here commands are
queued, the hub writes all that were queued in one round of its loop, and distributes the replies in order. Under load
this takes a fraction of the system calls and greenlet switches, and no pool limits the requests in flight.

A command is never sent twice: when the connection is lost, every outstanding command fails. Blocking commands must not
be sent here: they would delay the replies to all others.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

import gevent
import hiredis
from gevent import socket, ssl
from gevent.hub import Waiter
from gevent.lock import Semaphore
from redis.connection import DefaultParser
from redis.exceptions import AuthenticationError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from knowalledge.net.redis.address import RedisAddress, RedisKind, parse_redis_address
from knowalledge.net.redis.errors import needs_new_connection
from knowalledge.net.tls import client_context

# The connection has timed out after this many checks in a row without any reply, the timeout divided among them. One
# long timer would blame Redis when the process itself was suspended: after that, only one check has passed.
STALL_CHECKS = 4
_RECV_SIZE = (
    64 * 1024
)  # more than a TLS record, so that no decrypted bytes stay where the loop does not see them
_READ, _WRITE = 1, 2
_parse_error: Any = DefaultParser.parse_error  # which has no types
_WOULD_BLOCK = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class MultiplexedClient:
    """Executes the commands of one process over one connection, which is reopened after a loss."""

    def __init__(self, url: str, timeout_s: float, pubsub: Callable[..., Any]) -> None:
        """Connects at the first command. ``timeout_s``: seconds to connect, and to wait for a reply.

        ``pubsub``: as redis-py's client has it. A subscription needs a connection of its own.
        """
        self.pubsub = pubsub
        self._address = parse_redis_address(url)
        self._timeout_s = timeout_s
        self._connection: _Connection | None = None
        self._connect_lock = Semaphore()
        self._attempts = 0
        self._last_failure: RedisError | None = None  # of the last attempt to connect

    def execute_command(self, *args: Any) -> Any:
        """The reply to a command. Raises as redis-py does: ``ResponseError``, ``ConnectionError``, ``TimeoutError``."""
        connection = self._connection
        if connection is None or connection.closed:
            connection = self._connect()
        reply = connection.request(hiredis.pack_command(args))
        if isinstance(reply, RedisError):
            if needs_new_connection(reply):
                connection.fail(RedisConnectionError("the server does not serve this connection any more"))
            raise reply
        return reply

    def _connect(self) -> "_Connection":
        """A new connection. One greenlet connects; those that come meanwhile share its connection or its failure."""
        attempts = self._attempts
        with self._connect_lock:
            connection = self._connection
            if connection is not None and not connection.closed:
                return connection
            if self._attempts != attempts and self._last_failure is not None:
                raise self._last_failure
            self._attempts += 1
            try:
                connection = _Connection(self._address, self._timeout_s)
            except RedisError as error:
                self._last_failure = error
                raise
            self._connection, self._last_failure = connection, None
            return connection

    def close(self) -> None:
        if self._connection is not None:
            self._connection.fail(RedisConnectionError("closed"))


def _error_reply(text: str) -> RedisError:
    """An error reply as the exception that redis-py raises for it."""
    error: RedisError = _parse_error(text)
    return error


class _Connection:
    """One connection, from opening to its end.

    The hub's callbacks write and read, without a greenlet for either: a reply costs one receive and one switch, to the
    greenlet that waits for it.
    """

    def __init__(self, address: RedisAddress, timeout_s: float) -> None:
        """Connect and authenticate. Raises ``ConnectionError``, ``TimeoutError`` or ``AuthenticationError``."""
        self.closed = False
        self._outgoing: list[bytes] = []
        self._flushing = (
            False  # a flush is scheduled: for this round of the loop, or when the kernel accepts more
        )
        self._waiters: deque[Waiter[Any]] = deque()
        self._replies = 0
        self._replies_at_check = -1
        self._stalled_checks = 0
        self._reader = hiredis.Reader(replyError=_error_reply)
        self._loop = gevent.get_hub().loop
        timer = self._loop.timer(timeout_s / STALL_CHECKS, timeout_s / STALL_CHECKS)
        self._watchers: list[Any] = [timer]
        guard = gevent.Timeout.start_new(timeout_s)
        try:
            self._socket = _open_socket(address)
            self._socket.settimeout(0.0)
            self._write_watcher = self._loop.io(self._socket.fileno(), _WRITE)
            read_watcher = self._loop.io(self._socket.fileno(), _READ)
            self._watchers += [self._write_watcher, read_watcher]
            read_watcher.start(self._on_readable)
            for command in _handshake(address):
                reply = self.request(hiredis.pack_command(command))
                if isinstance(reply, ResponseError):
                    raise AuthenticationError(str(reply))
                if isinstance(reply, RedisError):
                    raise reply
        except gevent.Timeout as error:
            if error is not guard:
                raise
            self.fail(RedisTimeoutError("Redis accepted no connection in time"))
            raise RedisTimeoutError("Redis accepted no connection in time") from None
        except OSError as error:
            self.fail(RedisConnectionError("refused"))
            raise RedisConnectionError(f"Redis cannot be reached ({type(error).__name__})") from error
        except BaseException:  # a caller that is killed while it connects leaves no connection behind
            self.fail(RedisConnectionError("abandoned"))
            raise
        finally:
            guard.close()
        if not self.closed:
            timer.start(self._check_progress)

    def request(self, command: bytes) -> Any:
        """The reply to a packed command, which may be a ``RedisError``."""
        waiter: Waiter[Any] = Waiter()
        self._outgoing.append(command)
        self._waiters.append(waiter)
        if not self._flushing:
            self._flushing = True
            self._loop.run_callback(self._flush)
        # A caller that is killed here leaves its waiter in the queue: its reply is discarded, and the order is kept.
        return waiter.get()

    # -- callbacks of the hub, which must not block --------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what is queued. What the kernel does not accept is written when the socket is writable."""
        if self.closed:
            return
        data = b"".join(self._outgoing)
        try:
            sent = self._socket.send(data)
        except _WOULD_BLOCK:
            sent = 0
        except OSError as error:
            self.fail(RedisConnectionError(f"the connection broke ({type(error).__name__})"))
            return
        self._flushing = sent < len(data)
        if self._flushing:
            self._outgoing = [data[sent:]]
            self._write_watcher.start(self._flush)
        else:
            self._outgoing = []
            self._write_watcher.stop()

    def _on_readable(self) -> None:
        """Distribute the replies that have arrived."""
        reader, waiters, run = self._reader, self._waiters, self._loop.run_callback
        try:
            data = self._socket.recv(_RECV_SIZE)
            if not data:
                raise RedisConnectionError("Redis closed the connection")
            reader.feed(data)
            # False means both "no complete reply" and RESP3's boolean; this connection speaks RESP2.
            while (reply := reader.gets()) is not False:
                if not waiters:
                    raise RedisConnectionError("Redis sent a reply without a command")
                self._replies += 1
                # As a callback, not here: hundreds of greenlets would run before the hub handles other events.
                run(waiters.popleft().switch, reply)
        except _WOULD_BLOCK:
            pass
        except RedisConnectionError as error:
            self.fail(error)
        except Exception as error:  # noqa: BLE001 - broken, or what cannot be parsed: nothing after it can be trusted
            self.fail(RedisConnectionError(f"the connection broke ({type(error).__name__})"))

    def _check_progress(self) -> None:
        """Fail the connection if commands are outstanding and no reply has arrived for ``STALL_CHECKS`` checks."""
        if not self._waiters or self._replies != self._replies_at_check:
            self._replies_at_check, self._stalled_checks = self._replies, 0
            return
        self._stalled_checks += 1
        if self._stalled_checks >= STALL_CHECKS:
            self.fail(RedisTimeoutError("Redis does not answer"))

    def fail(self, error: RedisError) -> None:
        """Close the connection; every outstanding command fails with ``error``."""
        if self.closed:
            return
        self.closed = True
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        while self._waiters:
            self._loop.run_callback(self._waiters.popleft().switch, error)
        if hasattr(self, "_socket"):
            self._socket.close()


def _open_socket(address: RedisAddress) -> "socket.socket":
    """A connected socket, with TLS where the address says so."""
    if address.kind is RedisKind.UNIX:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(address.path)
        return sock
    host, port = address.hosts[0]
    sock = socket.create_connection((host, port))
    try:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if address.tls:
            # In two steps: a timeout during a handshake inside wrap_socket would leave the socket open.
            sock = secure = client_context().wrap_socket(
                sock, server_hostname=host, do_handshake_on_connect=False
            )
            secure.do_handshake()
        return sock
    except BaseException:  # a Timeout and a kill are not Exceptions
        sock.close()
        raise


def _handshake(address: RedisAddress) -> list[tuple[Any, ...]]:
    """The commands that authenticate and select the database of an address."""
    commands: list[tuple[Any, ...]] = []
    if address.password is not None:
        user = (address.username,) if address.username else ()
        commands.append(("AUTH", *user, address.password))
    if address.db:
        commands.append(("SELECT", str(address.db)))
    return commands
