"""The pooled HTTP client that every dialect speaks through.

geventhttpclient, because it waits in the hub whether or not the process is patched, parses in C, and gives the socket
back or closes it at a defined moment: closing a response that is not complete closes its connection, which is how a
provider learns that nobody listens any more. A request is sent again only when a kept-alive connection turns out to
have been closed before any byte of an answer: then the server cannot have been working on it.
"""

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from typing import Any, NoReturn
from urllib.parse import urlsplit
from zlib import MAX_WBITS, decompressobj
from zlib import error as ZlibError

from gevent import Timeout
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPParseError

from knowalledge.domain.errors import ProviderGarbage, ProviderTimeout, ProviderUnavailable
from knowalledge.domain.ports import Clock

# An answer larger than this is not an answer.
MAX_ANSWER = 32 * 1024 * 1024
# Connections to one address at once; beyond it calls wait for one within their deadline.
MAX_CONNECTIONS = 2048
CONNECT_S = 5.0


class Reply:
    """A whole answer."""

    __slots__ = ("body", "headers", "status")

    def __init__(self, status: int, headers: Mapping[str, Any], body: bytes) -> None:
        self.status, self.headers, self.body = status, headers, body


class Http:
    """Requests to one base URL, each within a whole-call timeout in seconds."""

    def __init__(self, base_url: str, clock: Clock) -> None:
        parts = urlsplit(base_url)
        self._prefix = parts.path.rstrip("/")
        self._clock = clock
        self._client = HTTPClient(
            parts.hostname or "",
            port=parts.port,
            ssl=parts.scheme == "https",
            concurrency=MAX_CONNECTIONS,
            connection_timeout=CONNECT_S,
            network_timeout=86_400.0,  # never: the whole call has one deadline
            block_size=16 * 1024,
        )

    def post(self, path: str, body: bytes, headers: dict[str, str], timeout: float) -> Reply:
        """One request and its whole answer, whatever its status."""
        return self._request("POST", path, body, headers, timeout)

    def get(self, path: str, headers: dict[str, str], timeout: float) -> Reply:
        return self._request("GET", path, b"", headers, timeout)

    def _request(self, method: str, path: str, body: bytes, headers: dict[str, str], timeout: float) -> Reply:
        with _mapped(timeout):
            response = self._client.request(method, self._prefix + path, body, headers)
            try:
                return Reply(response.status_code, response.info(), _whole(response))
            finally:
                response.release()

    def events(
        self, path: str, body: bytes, headers: dict[str, str], timeout: float
    ) -> Generator[bytes, None, Reply | None]:
        """The data of each server-sent event. Returns a Reply instead if the status was not 200.

        Time that the consumer takes between two events counts towards the deadline too: it is the caller's patience.
        """
        deadline = self._clock.monotonic() + timeout
        with _mapped(timeout):
            response = self._client.request("POST", self._prefix + path, body, headers)
        try:
            if response.status_code != 200:
                with _mapped(deadline - self._clock.monotonic()):
                    return Reply(response.status_code, response.info(), _whole(response))
            seen = 0
            while True:
                with _mapped(deadline - self._clock.monotonic()):
                    line = response.readline(b"\n")
                if not line:
                    return None
                seen += len(line)
                if seen > MAX_ANSWER:
                    raise ProviderGarbage("the provider's stream does not end")
                if line.startswith(b"data:"):
                    yield line[5:].strip()
        finally:
            response.release()

    def close(self) -> None:
        self._client.close()


def _whole(response: Any) -> bytes:
    found = bytearray()
    while True:
        block = response.read(response.block_size)
        if not block:
            break
        found += block
        if len(found) > MAX_ANSWER:
            raise ProviderGarbage("the provider's answer is larger than an answer can be")
    body = bytes(found)
    if response.get("content-encoding") in ("gzip", "x-gzip"):
        return _unzip(body)
    return body


def _unzip(body: bytes) -> bytes:
    unzip = decompressobj(MAX_WBITS | 16)
    try:
        plain = unzip.decompress(body, MAX_ANSWER)
    except ZlibError as error:
        raise ProviderGarbage("the provider's answer is not the gzip that it says it is") from error
    if unzip.unconsumed_tail:
        raise ProviderGarbage("the provider's answer is larger than an answer can be")
    return plain


@contextmanager
def _mapped(timeout: float) -> Generator[None, None, None]:
    """Within a deadline, with every failure of the wire as a typed error."""
    if timeout <= 0:
        raise ProviderTimeout("the deadline passed")
    guard = Timeout.start_new(timeout)
    try:
        yield
    except Timeout as expired:
        if expired is not guard:
            raise
        raise ProviderTimeout("the provider did not answer in time") from None
    except HTTPParseError as error:
        raise ProviderGarbage("the provider's answer ended early or is not HTTP") from error
    except OSError as error:
        _unreachable(error)
    finally:
        guard.close()


def _unreachable(error: OSError) -> NoReturn:
    if isinstance(error, TimeoutError):
        raise ProviderTimeout("the provider did not answer in time") from error
    raise ProviderUnavailable(f"the provider cannot be reached ({type(error).__name__})") from error
