"""One connection to Redis for all greenlets of a process: what they ask in the same moment goes out in one write.

A pool gives every greenlet that asks a connection of its own, and a write and a read for each command. Here commands
are queued, the hub writes whatever has gathered in one round of its loop, and hands the replies back in order. Under
load that is a fraction of the system calls and switches, and no pool bounds the number of requests in flight.

A command is never sent twice: when the connection is lost, everybody whose reply is outstanding is told so. Commands
that block do not belong here, they would hold up everybody's.
"""

from collections import deque
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

import gevent
import hiredis
from gevent import socket, ssl
from gevent.hub import Waiter
from gevent.lock import Semaphore
from redis.exceptions import AuthenticationError, NoScriptError, RedisError, ResponseError
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from knowalledge.net.tls import client_context

# A reply is late if nothing at all came for the timeout, looked at this many times. Looks, not one long timer: a
# process that stood still itself has had one look, not all of them, and does not blame Redis.
LOOKS = 4
_BLOCK = 64 * 1024  # more than a TLS record, so that nothing is left behind where the loop does not see it
_READ, _WRITE = 1, 2
_NOT_NOW = (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class MultiplexedClient:
    """Executes commands of one process over one connection, which is made anew when it is lost."""

    def __init__(self, url: str, timeout_s: float, pubsub: Callable[..., Any]) -> None:
        """Connects at the first command. ``timeout_s`` is for connecting, and for a reply.

        ``pubsub`` makes a subscription, as redis-py's client does: listening takes a connection of its own.
        """
        self.pubsub = pubsub
        self._url = url
        self._timeout_s = timeout_s
        self._line: _Connection | None = None
        self._connecting = Semaphore()
        self._tries = 0
        self._failed: RedisError | None = None  # the last try to connect

    def execute_command(self, *args: Any) -> Any:
        """The reply. Raises what redis-py raises: ``ResponseError``, ``ConnectionError``, ``TimeoutError``."""
        line = self._line
        if line is None or line.lost:
            line = self._connect()
        reply = line.ask(hiredis.pack_command(args))
        if isinstance(reply, RedisError):
            raise reply
        return reply

    def _connect(self) -> "_Connection":
        """A new line. One greenlet tries; those who come meanwhile share what it finds, also the failure."""
        tries = self._tries
        with self._connecting:
            line = self._line
            if line is not None and not line.lost:
                return line
            if self._tries != tries and self._failed is not None:
                raise self._failed
            self._tries += 1
            try:
                line = _Connection(self._url, self._timeout_s)
            except RedisError as error:
                self._failed = error
                raise
            self._line, self._failed = line, None
            return line

    def close(self) -> None:
        if self._line is not None:
            self._line.lose(RedisConnectionError("closed"))


def _replied(text: str) -> ResponseError:
    """An error reply as redis-py would raise it."""
    if text.startswith("NOSCRIPT"):
        return NoScriptError(text)
    return ResponseError(text)


class _Connection:
    """One connection, from its making to its loss.

    The hub itself writes and reads, without a greenlet for either: a reply costs one receive and one switch, into
    whoever asked.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        """Raises ``ConnectionError``, ``TimeoutError`` or ``AuthenticationError``."""
        self.lost = False
        self._out: list[bytes] = []
        self._flushing = False  # in this round of the loop, or as soon as the kernel takes more
        self._waiting: deque[Waiter[Any]] = deque()
        self._replies = 0
        self._looked = -1
        self._looks = 0
        self._reader = hiredis.Reader(replyError=_replied)
        self._loop = gevent.get_hub().loop
        timer = self._loop.timer(timeout_s / LOOKS, timeout_s / LOOKS)
        self._watchers: list[Any] = [timer]
        guard = gevent.Timeout.start_new(timeout_s)
        try:
            self._socket = _connected(url)
            self._socket.settimeout(0.0)
            self._room = self._loop.io(self._socket.fileno(), _WRITE)
            news = self._loop.io(self._socket.fileno(), _READ)
            self._watchers += [self._room, news]
            news.start(self._heard)
            for command in _greeting(url):
                reply = self.ask(hiredis.pack_command(command))
                if isinstance(reply, ResponseError):
                    raise AuthenticationError(str(reply))
                if isinstance(reply, RedisError):
                    raise reply
        except gevent.Timeout as error:
            if error is not guard:
                raise
            self.lose(RedisTimeoutError("Redis does not greet"))
            raise RedisTimeoutError("Redis does not greet") from None
        except OSError as error:
            self.lose(RedisConnectionError("refused"))
            raise RedisConnectionError(f"Redis cannot be reached ({type(error).__name__})") from error
        except BaseException:  # a caller that is killed while it connects leaves no connection behind
            self.lose(RedisConnectionError("given up"))
            raise
        finally:
            guard.close()
        if not self.lost:
            timer.start(self._look)

    def ask(self, command: bytes) -> Any:
        """The reply, which may be an error."""
        waiter: Waiter[Any] = Waiter()
        self._out.append(command)
        self._waiting.append(waiter)
        if not self._flushing:
            self._flushing = True
            self._loop.run_callback(self._flush)
        # A caller that is killed here leaves its waiter behind: the reply finds nobody, and the order is kept.
        return waiter.get()

    # -- in the hub, where nothing may wait ------------------------------------------------------------------------

    def _flush(self) -> None:
        """Write what has gathered; what the kernel does not take now, when it has room."""
        if self.lost:
            return
        data = b"".join(self._out)
        try:
            sent = self._socket.send(data)
        except _NOT_NOW:
            sent = 0
        except OSError as error:
            self.lose(RedisConnectionError(f"the connection broke ({type(error).__name__})"))
            return
        self._flushing = sent < len(data)
        if self._flushing:
            self._out = [data[sent:]]
            self._room.start(self._flush)
        else:
            self._out = []
            self._room.stop()

    def _heard(self) -> None:
        """Hand out the replies that have come."""
        reader, waiting, run = self._reader, self._waiting, self._loop.run_callback
        try:
            data = self._socket.recv(_BLOCK)
            if not data:
                raise RedisConnectionError("Redis closed the connection")
            reader.feed(data)
            # False means both "no whole reply yet" and RESP3's boolean; this connection speaks RESP2.
            while (reply := reader.gets()) is not False:
                if not waiting:
                    raise RedisConnectionError("Redis answered what nobody had asked")
                self._replies += 1
                # Not at once: of hundreds of replies each would take its caller's time before the hub sees to others.
                run(waiting.popleft().switch, reply)
        except _NOT_NOW:
            pass
        except (OSError, hiredis.ProtocolError) as error:
            self.lose(RedisConnectionError(f"the connection broke ({type(error).__name__})"))
        except RedisConnectionError as error:
            self.lose(error)

    def _look(self) -> None:
        """Whether replies still come."""
        if not self._waiting or self._replies != self._looked:
            self._looked, self._looks = self._replies, 0
            return
        self._looks += 1
        if self._looks >= LOOKS:
            self.lose(RedisTimeoutError("Redis does not answer"))

    def lose(self, error: RedisError) -> None:
        """The end: everybody who waits is told."""
        if self.lost:
            return
        self.lost = True
        for watcher in self._watchers:
            watcher.stop()
            watcher.close()
        while self._waiting:
            self._loop.run_callback(self._waiting.popleft().switch, error)
        if hasattr(self, "_socket"):
            self._socket.close()


def _connected(url: str) -> "socket.socket":
    parts = urlsplit(url)
    if parts.scheme == "unix":
        found = socket.socket(socket.AF_UNIX)
        found.connect(unquote(parts.path))
        return found
    found = socket.create_connection((parts.hostname or "localhost", parts.port or 6379))
    try:
        found.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if parts.scheme == "rediss":
            # In two steps: the handshake within the first would leave the socket open when the time is up.
            found = secure = client_context().wrap_socket(
                found, server_hostname=parts.hostname, do_handshake_on_connect=False
            )
            secure.do_handshake()
        return found
    except BaseException:  # the time limit and a kill are not Exceptions
        found.close()
        raise


def _greeting(url: str) -> list[tuple[Any, ...]]:
    """Who we are and which database, as the address says it."""
    parts = urlsplit(url)
    found: list[tuple[Any, ...]] = []
    if parts.password is not None:
        user = (unquote(parts.username),) if parts.username else ()
        found.append(("AUTH", *user, unquote(parts.password)))
    database = "" if parts.scheme == "unix" else parts.path.strip("/")
    if database not in ("", "0"):
        found.append(("SELECT", database))
    return found
