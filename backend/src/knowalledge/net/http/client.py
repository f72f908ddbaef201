"""The pooled HTTP client of every provider over REST.

- A call has one deadline, from connecting to the last byte; arriving bytes do not extend it.
- Abandoning a call, by closing a stream or by an exception, closes the connection, so the provider can stop working.
  Only a connection whose response was read to its end goes back to the pool.
- Nothing is retried, with one exception: a request is sent once more if a pooled connection turns out to be closed,
  without a byte of a response, within ``RACE_S`` of the request. Servers close idle connections at any time, and such a
  close can cross our request. A later close may come from a server that has worked on the request and charged it, and
  is reported as a failure.
- Compression is not requested: responses are small, and decompressing them costs more CPU than it saves in transfer.
  Compressed responses are decompressed all the same.
"""

import errno
from collections import deque
from collections.abc import Generator, Mapping
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import urlsplit

from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from gevent.ssl import SSLContext, SSLError
from geventhttpclient.response import HTTPParseError
from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.errors import (
    HostExhausted,
    ProviderError,
    ProviderGarbage,
    ProviderTimeout,
    ProviderUnavailable,
)
from knowalledge.net.http.connection import (
    MAX_BODY,
    ClosedBeforeResponse,
    Connection,
    Endpoint,
    IncomingResponse,
    header_lines,
)
from knowalledge.net.http.decoding import decompressor

# Concurrent connections to one address; further calls wait for a free one within their deadlines.
MAX_CONNECTIONS = 2048
# Idle connections are closed after this time; Google's front ends keep them for some four minutes.
IDLE_S = 90.0
# A connection that closes this soon after a request was closed as idle: the two crossed.
RACE_S = 1.0
# A connection is reused when it has been silent for this long after its response: what a faulty server or proxy sends
# beyond it would be taken for the answer to the next request. Under load this costs a few connections more.
SETTLE_S = 0.01
# After such bytes no connection of this client is reused for so long.
DISTRUST_S = 60.0
# After its last event a stream may take this long to end, so that its connection can be reused.
TAIL_S = 0.05
# Of our own machine: files, ports and memory.
_OWN_LIMITS = {errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM}
_MAX_RETRY_AFTER_S = 7 * 86_400.0


class Response(Struct, frozen=True):
    """A complete response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def retry_after(self) -> float | None:
        """Seconds to wait as ``retry-after-ms`` or ``retry-after`` says (RFC 9110, 10.2.3), at most a week; else None.

        A date is compared with the server's own ``date``, so that the clocks need not agree.
        """
        value = self.headers.get("retry-after-ms", "").strip()
        scale = 0.001
        if not value:
            value, scale = self.headers.get("retry-after", "").strip(), 1.0
        try:
            seconds = float(value) * scale if value[:1].isdigit() else self._seconds_until(value)
        except (ValueError, TypeError, OverflowError):  # TypeError: only one of the two dates has a zone
            return None
        return min(seconds, _MAX_RETRY_AFTER_S) if seconds >= 0 else None

    def _seconds_until(self, date: str) -> float:
        now = parsedate_to_datetime(self.headers.get("date", ""))
        return max(0.0, (parsedate_to_datetime(date) - now).total_seconds())


class _IdlePool(get_original("threading", "local")):  # type: ignore[misc]
    """The idle connections of one thread, newest last. A gevent socket works only in the thread that opened it."""

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()


class HttpClient:
    """Requests to one base URL over pooled connections. A ``timeout`` is for the whole call, in seconds.

    Each method raises ``ProviderTimeout``, ``ProviderUnavailable`` or ``ProviderGarbage``, never for a status.
    """

    def __init__(
        self, base_url: str, clock: Clock, *, proxy: str = "", tls: SSLContext | None = None
    ) -> None:
        self._endpoint = Endpoint(base_url, proxy, tls)
        self.clock = clock
        self._prefix = self._endpoint.target_prefix + urlsplit(base_url).path.rstrip("/")
        lines = header_lines({"host": self._endpoint.authority, "user-agent": "knowalledge"})
        self._common = lines + (self._endpoint.proxy_auth if self._endpoint.target_prefix else b"")
        self._slots = BoundedSemaphore(MAX_CONNECTIONS)
        self._pool = _IdlePool()
        self._distrusted_until = 0.0

    def post(self, path: str, body: bytes, headers: bytes, timeout: float) -> Response:
        """POST to ``path`` below the base URL. ``headers``: in wire format, from ``header_lines``."""
        return self.request("POST", path, body, headers, timeout)

    def get(self, path: str, headers: bytes, timeout: float) -> Response:
        return self.request("GET", path, b"", headers, timeout)

    def request(self, method: str, path: str, body: bytes, headers: bytes, timeout: float) -> Response:
        deadline = self.clock.monotonic() + timeout
        try:
            connection, response = self._send(method, path, body, headers, deadline)
            try:
                return Response(response.status_code, response.fields, connection.read_body(response))
            finally:
                self._release(connection, response)
        except (OSError, HTTPParseError) as error:
            _raise_typed(error)

    def events(
        self, path: str, body: bytes, headers: bytes, timeout: float, last: bytes = b""
    ) -> Generator[list[bytes], None, Response | None]:
        """POST, and the data of server-sent events, in the batches in which they arrive.

        Ends with the stream, or at an event whose data is ``last``, which is not yielded. Returns the complete response
        if its status is not 200, or if it is one JSON document instead of a stream. The deadline includes the time that
        the consumer takes between two batches.
        """
        deadline = self.clock.monotonic() + timeout
        try:
            connection, response = self._send("POST", path, body, headers, deadline)
            try:
                kind = response.fields.get("content-type", "")
                if response.status_code != 200 or kind.startswith("application/json"):
                    return Response(response.status_code, response.fields, connection.read_body(response))
                parser = _EventParser(response)
                while True:
                    batch = parser.pop_events()
                    if last and last in batch:
                        batch = batch[: batch.index(last)]
                        if batch:
                            yield batch
                        self._read_tail(connection, response)
                        return None
                    if batch:
                        yield batch
                    if response.message_complete:
                        return None
                    connection.admit(response, parser.pending)
                    connection.read(response)
            finally:
                self._release(connection, response)
        except (OSError, HTTPParseError) as error:
            _raise_typed(error)

    def close(self) -> None:
        """Close this thread's idle connections. Calls in progress are not affected."""
        while self._pool.idle:
            self._pool.idle.pop().close()

    def _send(
        self, method: str, path: str, body: bytes, headers: bytes, deadline: float
    ) -> tuple[Connection, IncomingResponse]:
        """Send a request on a pooled connection or a new one. The caller must ``_release`` it."""
        length = b"content-length: %d\r\n\r\n" % len(body) if method != "GET" else b"\r\n"
        request = b"".join(
            (f"{method} {self._prefix}{path} HTTP/1.1\r\n".encode(), self._common, headers, length, body)
        )
        if not self._slots.acquire(timeout=max(0.0, deadline - self.clock.monotonic())):
            raise ProviderTimeout("no connection to the provider became free in time")
        connection: Connection | None = None
        try:
            connection = self._take_idle()
            sent_at = self.clock.monotonic()
            if connection is not None:
                try:
                    return connection, connection.send(request, deadline)
                except ClosedBeforeResponse:
                    connection.close()
                    if self.clock.monotonic() - sent_at > RACE_S:
                        raise
            connection = Connection(self._endpoint, self.clock, deadline)
            return connection, connection.send(request, deadline)
        except BaseException as error:  # a killed caller leaves no slot and no socket behind either
            self._slots.release()
            if connection is not None:
                self._distrust_if_surplus(connection)
                connection.close()
            if isinstance(error, ClosedBeforeResponse):
                raise ProviderUnavailable("the provider closed the connection without a response") from error
            raise

    def _take_idle(self) -> Connection | None:
        """The newest connection that may be reused."""
        now, idle = self.clock.monotonic(), self._pool.idle
        if now < self._distrusted_until:
            self.close()
        index = len(idle) - 1
        while index >= 0:
            if now - idle[index].idle_since >= SETTLE_S:
                connection = idle[index]
                del idle[index]
                if connection.is_reusable():
                    return connection
                if connection.has_surplus():
                    self._distrusted_until = now + DISTRUST_S
                connection.close()
            index -= 1
        return None

    def _distrust_if_surplus(self, connection: Connection) -> None:
        if connection.response is not None and connection.response.surplus:
            self._distrusted_until = self.clock.monotonic() + DISTRUST_S

    def _release(self, connection: Connection, response: IncomingResponse) -> None:
        """Return the connection to the pool if its response was read to the end, else close it."""
        self._slots.release()
        self._distrust_if_surplus(connection)
        if response.surplus or not response.message_complete or response.should_close():
            connection.close()
            return
        connection.release()
        now = self.clock.monotonic()
        connection.idle_since = now
        idle = self._pool.idle
        idle.append(connection)
        # The newest is reused first, so the oldest may never be: they are closed here.
        while idle[0].idle_since < now - IDLE_S:
            idle.popleft().close()

    def _read_tail(self, connection: Connection, response: IncomingResponse) -> None:
        """Read the end of a stream after its last event, if it arrives within ``TAIL_S``."""
        try:
            connection.shorten_deadline(TAIL_S)
            while not response.message_complete:
                response.body.clear()
                connection.read(response)
        except (ProviderError, OSError, HTTPParseError):
            pass  # every event has been read: only the connection is lost


class _EventParser:
    """Parses the body of a response into the data of server-sent events (html.spec.whatwg.org, 9.2.6)."""

    def __init__(self, response: IncomingResponse) -> None:
        self._response = response
        self._decompress = decompressor(response.fields)
        self._partial_line: list[bytes] = []
        self._data: list[bytes] = []  # lines of the incomplete event
        self._size = 0
        self.pending = 0  # bytes of the incomplete event

    def pop_events(self) -> list[bytes]:
        """The events that are complete by now. Clears the response's body."""
        response = self._response
        received = bytes(response.body)
        response.body.clear()
        if self._decompress is not None:
            received = self._decompress(received)
        self._size += len(received)
        if self._size > MAX_BODY:
            raise ProviderGarbage("the provider's stream is too large")
        if b"\n" not in received and not response.message_complete:
            self._partial_line.append(received)
            self.pending += len(received)
            return []
        lines = b"".join((*self._partial_line, received)).split(b"\n")
        self._partial_line = [lines.pop()]
        if response.message_complete:  # some servers omit the last blank line
            lines += (*self._partial_line, b"")
        events, data = [], self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif data and line in (b"", b"\r"):
                events.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
        self.pending = sum(map(len, data)) + len(self._partial_line[0])
        return events


def _raise_typed(error: OSError | HTTPParseError) -> NoReturn:
    """Raise a failure of the connection or the parser as its typed error."""
    if isinstance(error, OSError) and error.errno in _OWN_LIMITS:
        raise HostExhausted("this replica has no resources left for a connection") from error
    if isinstance(error, TimeoutError):
        raise ProviderTimeout("the provider did not answer in time") from error
    if isinstance(error, HTTPParseError):
        raise ProviderGarbage("the provider's response ended early or is not HTTP") from error
    if isinstance(error, SSLError):
        raise ProviderUnavailable("no secure connection to the provider") from error
    raise ProviderUnavailable(f"the provider cannot be reached ({type(error).__name__})") from error
