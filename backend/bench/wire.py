"""A minimal HTTP/1.1 client for the load generator, so that little is measured besides the server."""

import asyncio
import re
from collections.abc import Callable
from time import perf_counter
from typing import cast

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]+)")


def request(path: str, host: str, body: bytes, headers: dict[str, str], method: str = "POST") -> bytes:
    """The bytes of one request."""
    extra = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n{extra}"
    return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body


class Exchange:
    """One request and its response. Times are ``perf_counter`` seconds."""

    __slots__ = ("body", "ended", "head", "on_end", "sent", "status", "tag", "token", "tokens")

    def __init__(self, on_end: Callable[["Exchange"], None], token: bytes = b"", tag: object = None) -> None:
        """``token``: the bytes that mark one token in a stream."""
        self.on_end, self.token, self.tag = on_end, token, tag
        self.status = 0  # 0: no response; negative: the response was cut off
        self.head = b""
        self.body = b""
        self.sent = self.ended = 0.0
        self.tokens: list[float] = []  # when each token arrived

    @property
    def seconds(self) -> float:
        return self.ended - self.sent


class Channel(asyncio.Protocol):
    """One persistent connection, for one exchange at a time."""

    def __init__(self, pool: "Pool") -> None:
        self._pool = pool
        self._transport: asyncio.Transport | None = None
        self._exchange: Exchange | None = None
        self._data = bytearray()
        self._body_at = 0
        self._length = -1  # of the body; -1: not known yet, -2: chunked

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's is one in all but name

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        self._pool.discard(self)
        exchange = self._exchange
        if exchange is not None:
            self._exchange = None
            exchange.status = -exchange.status
            exchange.ended = perf_counter()
            exchange.on_end(exchange)

    def start(self, raw: bytes, exchange: Exchange) -> None:
        assert self._transport is not None
        self._exchange = exchange
        self._data.clear()
        self._length = -1
        exchange.sent = perf_counter()
        self._transport.write(raw)

    def abort(self) -> None:
        """Close the connection at once, also during an exchange."""
        if self._transport is not None:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            return
        buffer = self._data
        scanned = len(buffer)
        buffer += data
        if exchange.token:
            # A token may be split between two reads.
            tokens = buffer.count(exchange.token, max(0, scanned - len(exchange.token) + 1))
            if tokens:
                exchange.tokens.extend([perf_counter()] * tokens)
        if self._length == -1:
            end = buffer.find(b"\r\n\r\n")
            if end < 0:
                return
            exchange.status = int(buffer[9:12])
            exchange.head = bytes(buffer[:end])
            self._body_at = end + 4
            match = _LENGTH.search(exchange.head.lower())
            bodyless = exchange.status in (204, 304)
            self._length = 0 if bodyless else int(match[1]) if match else -2
        if self._length == -2:
            if not buffer.endswith(b"0\r\n\r\n"):
                return
        elif len(buffer) - self._body_at < self._length:
            return
        exchange.ended = perf_counter()
        exchange.body = bytes(buffer[self._body_at :])
        self._exchange = None
        if b"connection: close" in exchange.head.lower():
            self.abort()
        else:
            self._pool.release(self)
        exchange.on_end(exchange)


class Pool:
    """Connections to one address, opened on demand."""

    def __init__(self, host: str, port: int) -> None:
        self.host, self.port = host, port
        self._free: list[Channel] = []
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[None]] = set()

    def release(self, channel: Channel) -> None:
        self._free.append(channel)

    def discard(self, channel: Channel) -> None:
        if channel in self._free:
            self._free.remove(channel)

    def send(self, raw: bytes, exchange: Exchange) -> None:
        """Start an exchange now, on a free connection if there is one."""
        if self._free:
            self._free.pop().start(raw, exchange)
            return
        task = self._loop.create_task(self._connect(raw, exchange))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connect(self, raw: bytes, exchange: Exchange) -> None:
        started = perf_counter()
        try:
            _, channel = await self._loop.create_connection(lambda: Channel(self), self.host, self.port)
        except OSError:
            exchange.sent = started
            exchange.ended = perf_counter()
            exchange.on_end(exchange)
            return
        channel.start(raw, exchange)
        exchange.sent = started  # a new caller's latency includes the connection

    async def warm(self, connections: int) -> None:
        """Open this many connections in advance."""
        while len(self._free) < connections:
            _, channel = await self._loop.create_connection(lambda: Channel(self), self.host, self.port)
            self._free.append(channel)

    def close(self) -> None:
        for channel in list(self._free):
            channel.abort()
        self._free.clear()
