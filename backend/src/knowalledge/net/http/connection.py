"""One HTTP/1.1 connection to a provider: sends a request and reads the response, within a deadline.

The parser is geventhttpclient's (Node's llhttp, in C). Connections and their pool are our own, because that library's
client loses a slot of its pool when a deadline expires while it sends, repeats a GET as often as the pool is large,
reads a line of any length, and closes every idle connection whose file descriptor is above 1023.
"""

from base64 import b64encode
from collections import deque
from collections.abc import Mapping
from functools import cache
from select import POLLIN
from typing import Any
from urllib.parse import SplitResult, unquote, urlsplit

from gevent import Timeout, get_hub, getcurrent
from gevent.hub import Waiter
from gevent.monkey import get_original
from gevent.socket import (
    IPPROTO_TCP,
    MSG_PEEK,
    SO_KEEPALIVE,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    getaddrinfo,
    socket,
)
from gevent.ssl import SSLContext, SSLEOFError, SSLSocket, SSLZeroReturnError
from geventhttpclient._parser import HTTPResponseParser
from geventhttpclient.response import HTTPParseError, HTTPResponse

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderGarbage, ProviderTimeout, ProviderUnavailable
from knowalledge.net.http.budget import ResponseBudget
from knowalledge.net.http.decoding import Decompressor, decompressor
from knowalledge.net.tls import client_context

# The largest body that is read, in bytes.
MAX_BODY = 32 * 1024 * 1024
MAX_HEAD = 64 * 1024
# Above this size, in bytes, a response needs a part of the memory that all large ones share.
SMALL = 1024 * 1024
LARGE = ResponseBudget(MAX_BODY)
# An address that accepts no connection in this time counts as down; another target may serve the request in time.
CONNECT_TIMEOUT_S = 5.0
# The largest TLS record: a smaller read would leave decrypted bytes inside the TLS layer, where no event reports them.
RECV_SIZE = 16 * 1024
# Greenlets resumed in one round of the event loop, about 3 ms: those whose response has started, and those whose
# response starts, which have more to do.
STARTED_PER_ROUND, NEW_PER_ROUND = 16, 4
# Under overload a new response waits this long, in seconds, for started ones; then one starts in each round.
OVERDUE_S = 2.0
# The deadline's timer is set anew when the loop's time and the clock differ by more than this, in seconds.
MAX_DRIFT_S = 0.01
_READ = 1

# The unpatched function: a poll without timeout does not block, and would cost a switch through the hub.
_poll = get_original("select", "poll")
# The bare parser. What ``HTTPResponse.feed`` adds concerns responses to HEAD, and is a third of the cost.
_parse = HTTPResponseParser.feed
# What a read or write raises when the peer has closed the connection, without and with TLS.
_PEER_CLOSED = (BrokenPipeError, ConnectionResetError, SSLEOFError, SSLZeroReturnError)


class ClosedBeforeResponse(Exception):
    """The connection ended before the first byte of a response."""


class Endpoint:
    """The origin of a base URL, and the proxy on the way to it. Raises ValueError for a malformed URL."""

    def __init__(self, base_url: str, proxy: str = "", tls: SSLContext | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a provider's address must be http://... or https://...")
        self.tls = (tls or default_tls()) if parts.scheme == "https" else None
        self.host = parts.hostname
        self.port = _port(parts)
        self.authority = parts.netloc.rpartition("@")[2]
        self.proxy_address: tuple[str, int] | None = None
        self.proxy_auth = b""
        # Without TLS a request through a proxy names the whole URL; with TLS it goes through a tunnel.
        self.target_prefix = ""
        if proxy:
            proxy_url = urlsplit(proxy)
            if proxy_url.scheme != "http" or not proxy_url.hostname:
                raise ValueError("a proxy's address must be http://[user:password@]host:port")
            self.proxy_address = (proxy_url.hostname, _port(proxy_url))
            if proxy_url.username is not None:
                pair = f"{unquote(proxy_url.username)}:{unquote(proxy_url.password or '')}".encode()
                self.proxy_auth = b"proxy-authorization: Basic " + b64encode(pair) + b"\r\n"
            if self.tls is None:
                self.target_prefix = f"http://{self.authority}"


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


@cache
def default_tls() -> SSLContext:
    """The system's trust store, loaded once: that takes some 20 ms, so it happens before the first request."""
    context = client_context()
    context.set_alpn_protocols(["http/1.1"])
    return context


class IncomingResponse(HTTPResponse):
    """A response while it arrives. ``fields``: headers by lower-case name; of a repeated one the last value."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.fields: dict[str, str] = {}
        self.body = bytearray()
        self.surplus = False  # more came than one response
        self._field_name = ""
        self._field_value: str | None = None

    # The parser calls these. They replace inherited methods that cost more than the parser itself.

    def _on_header_field(self, string: str) -> None:
        if self.headers_complete:
            return  # a trailer: not used, and their number is not limited
        if self._field_value is None:
            self._field_name += string
        else:
            self.fields[self._field_name.lower()] = self._field_value
            self._field_name, self._field_value = string, None

    def _on_header_value(self, string: str) -> None:
        if not self.headers_complete:
            self._field_value = string if self._field_value is None else self._field_value + string

    def _on_headers_complete(self) -> bool:
        if self._field_value is not None:
            self.fields[self._field_name.lower()] = self._field_value
            self._field_name, self._field_value = "", None
        status = self.status_code
        if status == 101:
            raise HTTPParseError("the provider switches protocols")
        self.headers_complete = status >= 200
        if self.fields.get("transfer-encoding", "chunked").lower() != "chunked":
            raise HTTPParseError("the response has an unknown transfer coding")
        return False

    def _on_message_begin(self) -> None:
        if self.headers_complete:
            self.surplus = True
            raise HTTPParseError("a second response to one request")
        self.fields.clear()  # after an interim 1xx

    def _on_message_complete(self) -> None:
        self.message_complete = self.headers_complete

    def _on_body(self, buf: bytearray) -> None:
        self.body += buf


class FairScheduler:
    """Resumes greenlets that wait for a provider, a limited number in each round of the event loop.

    Without a limit a thousand readable streams would all run before the hub accepts a new request, such as a health
    check. Responses that have started go first: under overload it is better to delay the start of some than to stall
    all of them.
    """

    def __init__(self, hub: Any) -> None:
        self._loop = hub.loop
        self._next_round = hub.loop.timer(
            0.0
        )  # fires in the next round, after the loop has polled for events
        self._started: deque[Waiter[None]] = deque()
        self._new: deque[tuple[Waiter[None], float]] = deque()  # with the loop's time of arrival
        self._running = False
        self._round = 0.0  # the current round, by the loop's time
        self._budget = 0  # started responses that may still be resumed in it

    def resume(self, waiter: "Waiter[None]", started: bool) -> bool:
        """Resume a waiter now or in a later round; whether it was deferred. Runs in the hub."""
        now = self._loop.now()
        if not started:
            self._new.append((waiter, now))
        elif self._started or not self._has_budget(now):
            self._started.append(waiter)
        else:  # the usual case: the queue is empty, so no callback is needed
            waiter.switch(None)
            return False
        if not self._running:
            self._running = True
            self._loop.run_callback(self._run)
        return True

    def _has_budget(self, now: float) -> bool:
        if now != self._round:
            self._round, self._budget = now, STARTED_PER_ROUND
        self._budget -= 1
        return self._budget >= 0

    def _run(self) -> None:
        now = self._loop.now()
        while self._started and self._has_budget(now):
            self._started.popleft().switch(None)
        limit = NEW_PER_ROUND
        if self._started:
            limit = 1 if self._new and now - self._new[0][1] > OVERDUE_S else 0
        for _ in range(min(limit, len(self._new))):
            self._new.popleft()[0].switch(None)
        if self._started or self._new:
            self._next_round.start(self._run)
        else:
            self._running = False


_scheduler_of = cache(FairScheduler)  # one per hub


class Connection:
    """A socket that carries one request at a time, within a deadline on the clock's monotonic scale.

    One timer per call, not per read, enforces the deadline: it interrupts the greenlet that waits on the socket.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock, deadline: float) -> None:
        self._clock = clock
        self.idle_since = 0.0
        self._deadline = deadline
        self._timer: Any = None
        self._timer_due = 0.0  # when the timer fires, in the loop's time
        self._blocked: Any = None  # the greenlet that waits on the socket
        self._started = False  # part of the response has arrived
        self._large = 0  # of the memory for large responses, to be released
        self._fresh = True  # nothing has been sent
        self.response: IncomingResponse | None = None  # the last one
        self._socket = _open_socket(endpoint, self._remaining())
        # Blocking mode, and read only when an event reports data: a read that finds nothing costs as much as one
        # that does.
        self._socket.settimeout(None)
        self._hub = get_hub()
        self._scheduler = _scheduler_of(self._hub)
        self._read_watcher: Any = self._hub.loop.io(self._socket.fileno(), _READ)
        self._listening = False  # stays on from one read to the next
        self._waiter: Waiter[None] | None = None
        self._poller = _poll()
        self._poller.register(self._socket.fileno(), POLLIN)

    def send(self, request: bytes, deadline: float) -> IncomingResponse:
        """Send a request and read the response to the end of its head.

        The deadline stays in force until ``release`` or ``close``. Raises ``ClosedBeforeResponse``,
        ``ProviderTimeout``, ``ProviderGarbage``, ``HTTPParseError`` or OSError.
        """
        self._set_deadline(deadline)
        response = self.response = IncomingResponse()
        self._started = False
        if self._fresh:
            # A server that speaks first may answer once more later: the next caller would get that.
            self._fresh, response.surplus = False, not self.is_reusable()
        self._blocked = getcurrent()
        try:
            sent = self._socket.send(request)  # cheaper than sendall, and nearly always sends everything
            if sent < len(request):
                self._socket.sendall(request[sent:])
        except _PEER_CLOSED:
            pass  # the server may have responded before it closed: read it
        finally:
            self._blocked = None
        received = 0
        while not response.headers_complete:
            try:
                data = self._receive()
            except _PEER_CLOSED:
                data = b""
            if not data and not received:
                raise ClosedBeforeResponse
            received += len(data)
            self._started = True
            _feed(response, data)
            if received > MAX_HEAD and not response.headers_complete:
                raise ProviderGarbage("the head of the provider's response is too large")
        return response

    def read(self, response: IncomingResponse) -> None:
        """Wait for more of the body. Raises ``HTTPParseError`` if it is cut off, ``ProviderTimeout`` or OSError."""
        _feed(response, self._receive())

    def shorten_deadline(self, seconds: float) -> None:
        """Move the deadline to ``seconds`` from now, if that is earlier."""
        self._set_deadline(min(self._deadline, self._clock.monotonic() + seconds))

    def read_body(self, response: IncomingResponse) -> bytes:
        """The whole body, decompressed. Raises as ``read`` does, and as ``admit`` does."""
        decompress = decompressor(response.fields)
        if decompress is not None:
            return self._read_compressed(response, decompress)
        while not response.message_complete:
            self.read(response)
            self.admit(response, len(response.body))
        return bytes(response.body)

    def _read_compressed(self, response: IncomingResponse, decompress: Decompressor) -> bytes:
        plain = bytearray()
        while True:
            plain += decompress(response.body)
            response.body.clear()
            self.admit(response, len(plain))
            if response.message_complete:
                break
            self.read(response)
        if not decompress.ended:
            raise ProviderGarbage("the provider's response ended early")
        return bytes(plain)

    def admit(self, response: IncomingResponse, size: int) -> None:
        """Let a response grow to ``size`` bytes; a large one waits here until there is memory for it.

        Raises ``ProviderGarbage`` above ``MAX_BODY``, and ``ProviderTimeout`` at the deadline.
        """
        if size <= SMALL:
            return
        if size > MAX_BODY:
            raise ProviderGarbage("the provider's response is too large")
        if not self._large:
            length = response.fields.get("content-length", "")
            known = length.isdecimal() and "content-encoding" not in response.fields
            self._stop_listening()
            self._large = LARGE.acquire(int(length) if known else MAX_BODY, self._remaining())

    def is_reusable(self) -> bool:
        """Whether an idle connection is open, with nothing to read: unrequested bytes make it unusable."""
        return not self._poller.poll(0)

    def has_surplus(self) -> bool:
        """Whether an idle connection has bytes to read, and not only its end. Under TLS its end is bytes, too."""
        if not isinstance(self._socket, SSLSocket):
            try:
                return bool(self._socket.recv(1, MSG_PEEK))
            except OSError:
                pass  # it was reset
        return False

    def release(self) -> None:
        """End the call: no deadline and no read event from here on."""
        self._stop_listening()
        self._cancel_timer()
        self.response = None
        if self._large:
            LARGE.release(self._large)
            self._large = 0

    def close(self) -> None:
        self.release()
        self._read_watcher.close()
        self._socket.close()

    def _receive(self) -> bytes:
        if self._remaining() < self._timer_due - self._hub.loop.now() - MAX_DRIFT_S:
            self._set_deadline(self._deadline)  # the loop's time is behind the clock, which is authoritative
        self._blocked = getcurrent()
        try:
            waiter = self._waiter = Waiter()
            if not self._listening:
                self._listening = True
                self._read_watcher.start(self._on_readable)
            waiter.get()
            return self._socket.recv(RECV_SIZE)
        finally:
            self._blocked = self._waiter = None

    def _on_readable(self) -> None:
        """Runs in the hub, in each round in which there is something to read while the watcher is on."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or self._scheduler.resume(waiter, self._started):
            self._stop_listening()

    def _stop_listening(self) -> None:
        if self._listening:
            self._listening = False
            self._read_watcher.stop()

    def _set_deadline(self, deadline: float) -> None:
        self._cancel_timer()
        self._deadline = deadline
        remaining = self._remaining()
        self._timer = self._hub.loop.timer(remaining)
        self._timer.start(self._on_deadline)
        self._timer_due = self._hub.loop.now() + remaining

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _on_deadline(self) -> None:
        """Runs in the hub: interrupts the greenlet that waits, or makes its next wait fail."""
        self._deadline = 0.0  # the loop's time may be a little ahead of the clock's
        if self._blocked is not None:
            self._blocked.throw(ProviderTimeout("the provider did not answer in time"))

    def _remaining(self) -> float:
        remaining = self._deadline - self._clock.monotonic()
        if remaining <= 0:
            raise ProviderTimeout("the deadline passed")
        return remaining


def _feed(response: IncomingResponse, data: bytes) -> None:
    _parse(response, data)  # no data is the end of the connection, which completes a body of unknown length
    if not data and not response.message_complete:
        raise HTTPParseError("the connection ended before the response")


def _open_socket(endpoint: Endpoint, seconds: float) -> socket:
    """A socket that is ready for requests: DNS, connection, proxy and TLS take at most ``seconds``."""
    guard = Timeout.start_new(min(seconds, CONNECT_TIMEOUT_S))
    try:
        sock = _connect(*(endpoint.proxy_address or (endpoint.host, endpoint.port)))
        try:
            sock.settimeout(None)
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
            if endpoint.tls is None:
                return sock
            if endpoint.proxy_address:
                _open_tunnel(sock, endpoint)
            # In two steps: a timeout during a handshake inside wrap_socket would leave the socket open.
            sock = secure = endpoint.tls.wrap_socket(
                sock, server_hostname=endpoint.host, do_handshake_on_connect=False
            )
            secure.do_handshake()
            return secure
        except BaseException:  # a Timeout and a kill are not Exceptions
            sock.close()
            raise
    except Timeout as expired:
        if expired is not guard:
            raise
        if seconds > CONNECT_TIMEOUT_S:
            raise ProviderUnavailable("the provider accepts no connection") from None
        raise ProviderTimeout("the provider did not answer in time") from None
    finally:
        guard.close()


def _connect(host: str, port: int) -> socket:
    """A connection to the first address of a host that accepts one.

    Not gevent's ``create_connection``: that swallows our Timeout as the failure of one address and continues without.
    """
    addresses = getaddrinfo(host, port, 0, SOCK_STREAM)
    failure = OSError("the name has no address")
    for family, kind, protocol, _, address in addresses:
        sock = socket(family, kind, protocol)
        try:
            # An address that does not answer, often an IPv6 one, must leave time for the next one.
            sock.settimeout(max(1.0, CONNECT_TIMEOUT_S / len(addresses)))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:  # after a Timeout or a kill the next address is not tried
            sock.close()
            raise
    if isinstance(failure, TimeoutError):
        raise ProviderUnavailable("the provider accepts no connection") from failure
    raise failure


def _open_tunnel(sock: socket, endpoint: Endpoint) -> None:
    """CONNECT through the endpoint's proxy. Raises ``ProviderUnavailable`` if the proxy refuses."""
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    target = f"{host}:{endpoint.port}".encode()
    sock.sendall(
        b"CONNECT " + target + b" HTTP/1.1\r\nhost: " + target + b"\r\n" + endpoint.proxy_auth + b"\r\n"
    )
    head = b""
    # Nothing follows the head: in TLS the client sends first.
    while not head.endswith(b"\r\n\r\n"):
        more = sock.recv(RECV_SIZE)
        if not more or len(head) > MAX_HEAD:
            raise ProviderUnavailable("the proxy opened no tunnel to the provider")
        head += more
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise ProviderUnavailable("the proxy refused a tunnel to the provider")


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers in wire format. Raises ValueError for a name or value with characters outside printable ASCII."""
    for name, value in headers.items():
        if not (name + value).isprintable() or not (name + value).isascii():
            raise ValueError(f"the value for the header {name!r} cannot be sent")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
