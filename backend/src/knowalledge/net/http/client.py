"""The pooled HTTP client that every REST dialect speaks through.

- A call has one deadline from the connection to the last byte; bytes that trickle in do not extend it.
- Giving up, by closing a stream or by any exception, closes the connection: that is how a provider learns that
  nobody listens any more. Only a connection whose answer was read to its end is kept.
- Nothing is retried. Once, a request is sent again: if a kept connection turns out to have ended, without a byte of
  an answer, within ``RACE_S`` of the request. Servers end idle connections whenever they like, and such an end crosses
  our request on its way. One that comes later may come from a server that was at work on a request that it has
  charged, and is reported as a failure.
- Answers are not asked for compressed (they are small, and unzipping costs more than carrying them), but understood.
"""

from collections import deque
from collections.abc import Generator, Mapping
from email.utils import parsedate_to_datetime
from typing import NoReturn
from urllib.parse import urlsplit
from zlib import MAX_WBITS, decompressobj
from zlib import error as ZlibError

from gevent.lock import BoundedSemaphore
from gevent.monkey import get_original
from gevent.ssl import SSLContext, SSLError
from geventhttpclient.response import HTTPParseError
from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderError, ProviderGarbage, ProviderTimeout, ProviderUnavailable
from knowalledge.net.http.connection import (
    MAX_ANSWER,
    Answer,
    ClosedUnanswered,
    Connection,
    Endpoint,
    header_lines,
)

# Connections to one address at once; beyond it calls wait for one within their deadline.
MAX_CONNECTIONS = 2048
# Kept connections are given up after this; Google's front ends keep them for some four minutes.
IDLE_S = 90.0
# An end of the connection that comes this soon after a request crossed it on its way.
RACE_S = 1.0
# After its last event a stream gets this long to end, so that its connection can be kept.
TAIL_S = 0.05
_LONGEST_WAIT_S = 7 * 86_400.0


class Reply(Struct, frozen=True):
    """A whole answer. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def retry_after(self) -> float | None:
        """Seconds that the answer asks us to stay away, or None. A date is read against the server's own clock."""
        found = self.headers.get("retry-after-ms", "").strip()
        scale = 0.001
        if not found:
            found, scale = self.headers.get("retry-after", "").strip(), 1.0
        try:
            seconds = float(found) * scale if found[:1].isdigit() else self._until(found)
        except (ValueError, TypeError):  # TypeError: of the two dates only one names a zone
            return None
        return min(seconds, _LONGEST_WAIT_S) if seconds >= 0 else None

    def _until(self, date: str) -> float:
        now = parsedate_to_datetime(self.headers.get("date", ""))
        return max(0.0, (parsedate_to_datetime(date) - now).total_seconds())


class _Kept(get_original("threading", "local")):  # type: ignore[misc]
    """The idle connections of a thread, newest last: a socket can be waited for only in the thread that made it."""

    def __init__(self) -> None:
        self.idle: deque[Connection] = deque()


class Http:
    """Requests to one base URL, each within a timeout in seconds for the whole call."""

    def __init__(
        self, base_url: str, clock: Clock, *, proxy: str = "", tls: SSLContext | None = None
    ) -> None:
        self._endpoint = Endpoint(base_url, proxy, tls)
        self.clock = clock
        self._prefix = self._endpoint.target_prefix + urlsplit(base_url).path.rstrip("/")
        lines = header_lines({"host": self._endpoint.authority, "user-agent": "knowalledge"})
        self._common = lines + (self._endpoint.proxy_auth if self._endpoint.target_prefix else b"")
        self._slots = BoundedSemaphore(MAX_CONNECTIONS)
        self._kept = _Kept()

    def post(self, path: str, body: bytes, headers: bytes, timeout: float) -> Reply:
        """One request and its whole answer, whatever its status. ``headers`` are made by ``header_lines``."""
        return self.request("POST", path, body, headers, timeout)

    def get(self, path: str, headers: bytes, timeout: float) -> Reply:
        return self.request("GET", path, b"", headers, timeout)

    def request(self, method: str, path: str, body: bytes, headers: bytes, timeout: float) -> Reply:
        deadline = self.clock.monotonic() + timeout
        try:
            connection, answer = self._ask(method, path, body, headers, deadline)
            try:
                return _reply(answer, connection.whole(answer))
            finally:
                self._give_back(connection, answer)
        except (OSError, HTTPParseError) as error:
            _failed(error)

    def events(
        self, path: str, body: bytes, headers: bytes, timeout: float, last: bytes = b""
    ) -> Generator[list[bytes], None, Reply | None]:
        """The data of the server-sent events that have come together, until the stream ends or ``last`` was seen.

        ``last`` is not given on. Returns a Reply instead if the status was not 200. Time that the consumer takes
        between two events counts towards the deadline too: it is the caller's patience.
        """
        deadline = self.clock.monotonic() + timeout
        try:
            connection, answer = self._ask("POST", path, body, headers, deadline)
            try:
                if answer.status_code != 200:
                    return _reply(answer, connection.whole(answer))
                reader = _Events(answer)
                while True:
                    found = reader.take()
                    if last and last in found:
                        found = found[: found.index(last)]
                        if found:
                            yield found
                        self._end(connection, answer)
                        return None
                    if found:
                        yield found
                    if answer.message_complete:
                        return None
                    connection.read(answer)
            finally:
                self._give_back(connection, answer)
        except (OSError, HTTPParseError) as error:
            _failed(error)

    def close(self) -> None:
        """Close what is idle; calls that are under way end on their own."""
        while self._kept.idle:
            self._kept.idle.pop().close()

    def _ask(
        self, method: str, path: str, body: bytes, headers: bytes, deadline: float
    ) -> tuple[Connection, Answer]:
        """Send on a kept connection or a new one; the caller must give it back."""
        length = b"content-length: %d\r\n\r\n" % len(body) if method != "GET" else b"\r\n"
        request = b"".join(
            (f"{method} {self._prefix}{path} HTTP/1.1\r\n".encode(), self._common, headers, length, body)
        )
        if not self._slots.acquire(timeout=max(0.0, deadline - self.clock.monotonic())):
            raise ProviderTimeout("no connection to the provider became free in time")
        connection: Connection | None = None
        try:
            connection = self._reused()
            asked = self.clock.monotonic()
            if connection is not None:
                try:
                    return connection, connection.ask(request, deadline)
                except ClosedUnanswered:
                    connection.close()
                    if self.clock.monotonic() - asked > RACE_S:
                        raise
            connection = Connection(self._endpoint, self.clock, deadline)
            return connection, connection.ask(request, deadline)
        except BaseException as error:  # whoever is killed here leaves no slot and no socket behind either
            self._slots.release()
            if connection is not None:
                connection.close()
            if isinstance(error, ClosedUnanswered):
                raise ProviderUnavailable("the provider ended the connection without an answer") from error
            raise

    def _reused(self) -> Connection | None:
        idle = self._kept.idle
        while idle:
            connection = idle.pop()
            if connection.quiet():
                return connection
            connection.close()
        return None

    def _give_back(self, connection: Connection, answer: Answer) -> None:
        """Keep the connection if its answer was read to the end, else close it."""
        self._slots.release()
        if not answer.message_complete or answer.should_close():
            connection.close()
            return
        connection.rest()
        now = self.clock.monotonic()
        connection.idle_since = now
        idle = self._kept.idle
        idle.append(connection)
        # The least used are the oldest; without this they would stay for ever.
        while idle[0].idle_since < now - IDLE_S:
            idle.popleft().close()

    def _end(self, connection: Connection, answer: Answer) -> None:
        """Read the rest of a stream that has said its last word, if it comes at once."""
        try:
            connection.hasten(TAIL_S)
            while not answer.message_complete:
                answer.body.clear()
                connection.read(answer)
        except (ProviderError, OSError, HTTPParseError):
            pass  # all that was of use has been read


class _Events:
    """Cuts the body of an answer into the data of server-sent events (html.spec.whatwg.org, 9.2.6)."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._unzip = _Unzip() if _zipped(answer) else None
        self._rest: list[bytes] = []  # the pieces of a line that has not ended
        self._data: list[bytes] = []  # of an event that has not ended
        self._seen = 0

    def take(self) -> list[bytes]:
        """The events that are whole by now. Empties the answer's body."""
        answer = self._answer
        more = bytes(answer.body)
        answer.body.clear()
        if self._unzip is not None:
            more = self._unzip(more, MAX_ANSWER)
        self._seen += len(more)
        if self._seen > MAX_ANSWER:
            raise ProviderGarbage("the provider's stream does not end")
        if b"\n" not in more and not answer.message_complete:
            self._rest.append(more)
            return []
        lines = b"".join((*self._rest, more)).split(b"\n")
        self._rest = [lines.pop()]
        if answer.message_complete:  # some servers spare the last blank line
            lines += (*self._rest, b"")
        found, data = [], self._data
        for line in lines:
            if line.startswith(b"data:"):
                data.append(line[5:].strip())
            elif data and line in (b"", b"\r"):
                found.append(data[0] if len(data) == 1 else b"\n".join(data))
                data.clear()
        return found


class _Unzip:
    def __init__(self) -> None:
        self._object = decompressobj(MAX_WBITS | 32)  # 32: gzip or zlib, by its header

    def __call__(self, data: bytes, limit: int) -> bytes:
        try:
            plain = self._object.decompress(data, limit + 1)
        except ZlibError as error:
            raise ProviderGarbage("the provider's answer is not compressed as it says it is") from error
        if len(plain) > limit:
            raise ProviderGarbage("the provider's answer is larger than an answer can be")
        return plain

    @property
    def ended(self) -> bool:
        return self._object.eof


def _zipped(answer: Answer) -> bool:
    encoding = answer.head.get("content-encoding", "identity").lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return True
    if encoding in ("", "identity"):
        return False
    raise ProviderGarbage("the provider compresses its answer in a way that it was not asked for")


def _reply(answer: Answer, body: bytes) -> Reply:
    if _zipped(answer):
        unzip = _Unzip()
        body = unzip(body, MAX_ANSWER)
        if not unzip.ended:
            raise ProviderGarbage("the provider's answer ended early")
    return Reply(answer.status_code, answer.head, body)


def _failed(error: OSError | HTTPParseError) -> NoReturn:
    """A failure of the wire as its typed error."""
    if isinstance(error, TimeoutError):
        raise ProviderTimeout("the provider did not answer in time") from error
    if isinstance(error, HTTPParseError):
        raise ProviderGarbage("the provider's answer ended early or is not HTTP") from error
    if isinstance(error, SSLError):
        raise ProviderUnavailable("no secure connection to the provider") from error
    raise ProviderUnavailable(f"the provider cannot be reached ({type(error).__name__})") from error
