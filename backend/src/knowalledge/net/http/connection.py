"""One HTTP/1.1 connection towards a provider, and the reading of an answer from it.

The parser is geventhttpclient's (Node's llhttp, in C). Connections and their pool are our own, because that library's
client loses a slot of its pool when a deadline strikes while it sends, sends a GET again as often as the pool is
large, reads a line of any length, and closes every kept connection whose descriptor is above 1023.
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
    SO_KEEPALIVE,
    SOCK_STREAM,
    SOL_SOCKET,
    TCP_NODELAY,
    getaddrinfo,
    socket,
)
from gevent.ssl import SSLContext, SSLEOFError, SSLZeroReturnError
from geventhttpclient._parser import HTTPResponseParser
from geventhttpclient.response import HTTPParseError, HTTPResponse

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderGarbage, ProviderTimeout, ProviderUnavailable
from knowalledge.net.tls import trusting

# An answer larger than this is not an answer.
MAX_ANSWER = 32 * 1024 * 1024
MAX_HEAD = 64 * 1024
# An address that does not take a connection in this time is down; the rest of the patience may help elsewhere.
CONNECT_S = 5.0
# As large as a record of TLS can be: nothing that was read already is left inside, where no event tells of it.
BLOCK = 16 * 1024
# Resumed in a round of the loop, about three milliseconds: of those whose answer has begun, and of the others, who have
# more to do.
BEGUN_AT_ONCE, NEW_AT_ONCE = 16, 4
# While more answers are on their way than can be carried, one that has not begun waits for the others so long, in
# seconds; from then on one of them begins in each round.
OVERDUE_S = 2.0
# So far the loop's time may run from the clock's before a timer is set again, in seconds.
APART_S = 0.01
_READ = 1

# The real one: it looks and never waits, so it must not pass through the hub.
_poll = get_original("select", "poll")
# The parser itself: what ``HTTPResponse`` puts around it is for answers to HEAD, and is a third of its cost.
_parse = HTTPResponseParser.feed
# How a peer's having gone shows, in plain and in TLS.
_ENDED = (BrokenPipeError, ConnectionResetError, SSLEOFError, SSLZeroReturnError)


class ClosedUnanswered(Exception):
    """The connection ended before any byte of an answer."""


class Endpoint:
    """Where connections lead: an origin, perhaps through a proxy."""

    def __init__(self, base_url: str, proxy: str = "", tls: SSLContext | None = None) -> None:
        parts = urlsplit(base_url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("a provider's address must be http://... or https://...")
        self.tls = (tls or default_tls()) if parts.scheme == "https" else None
        self.host = parts.hostname
        self.port = _port(parts)
        self.authority = parts.netloc.rpartition("@")[2]
        self.via: tuple[str, int] | None = None
        self.proxy_auth = b""
        # A plain request through a proxy names its whole target; a TLS one goes through a tunnel instead.
        self.target_prefix = ""
        if proxy:
            way = urlsplit(proxy)
            if way.scheme != "http" or not way.hostname:
                raise ValueError("a proxy's address must be http://[user:password@]host:port")
            self.via = (way.hostname, _port(way))
            if way.username is not None:
                pair = f"{unquote(way.username)}:{unquote(way.password or '')}".encode()
                self.proxy_auth = b"proxy-authorization: Basic " + b64encode(pair) + b"\r\n"
            if self.tls is None:
                self.target_prefix = f"http://{self.authority}"


def _port(parts: SplitResult) -> int:
    return parts.port or (443 if parts.scheme == "https" else 80)


@cache
def default_tls() -> SSLContext:
    """The system's trust, read once: it takes some 20 ms, so it is made before any request waits for it."""
    context = trusting()
    context.set_alpn_protocols(["http/1.1"])
    return context


class Answer(HTTPResponse):
    """One answer while it arrives. Headers have lower-case names; of a repeated one the last value stands."""

    def __init__(self) -> None:
        super().__init__("POST")
        self.head: dict[str, str] = {}
        self.body = bytearray()
        self._name = ""
        self._value: str | None = None

    # The parser calls these. They are leaner than the inherited ones, which cost more than all the rest.

    def _on_header_field(self, string: str) -> None:
        if self.headers_complete:
            return  # a trailer: nothing there is of use, and there may be any number
        if self._value is None:
            self._name += string
        else:
            self.head[self._name.lower()] = self._value
            self._name, self._value = string, None

    def _on_header_value(self, string: str) -> None:
        if not self.headers_complete:
            self._value = string if self._value is None else self._value + string

    def _on_headers_complete(self) -> bool:
        if self._value is not None:
            self.head[self._name.lower()] = self._value
            self._name, self._value = "", None
        self.headers_complete = self.status_code >= 200
        return False

    def _on_message_begin(self) -> None:
        if self.headers_complete:
            raise HTTPParseError("a second answer to one request")
        self.head.clear()  # after an interim 1xx

    def _on_message_complete(self) -> None:
        self.message_complete = self.headers_complete

    def _on_body(self, buf: bytearray) -> None:
        self.body += buf


class _Turns:
    """Resumes those who wait for a provider, a few in each round of the loop.

    Of a thousand streams that have news at once each would else take its time before anybody is heard who asks
    something new, such as whether this replica is well. Answers that have begun go first: where there is not enough for
    all, it is better that some begin later than that all of them falter.
    """

    def __init__(self, hub: Any) -> None:
        self._loop = hub.loop
        self._again = hub.loop.timer(0.0)  # in the next round, after a look at what has come
        self._begun: deque[Waiter[None]] = deque()
        self._new: deque[tuple[Waiter[None], float]] = deque()  # and since when, in the loop's time
        self._running = False
        self._round = 0.0  # this round, by the loop's time, and how many more may go on in it
        self._left = 0

    def add(self, waiter: "Waiter[None]", begun: bool) -> bool:
        """Resume it now, or in its turn: whether it has to wait for that. In the hub."""
        now = self._loop.now()
        if not begun:
            self._new.append((waiter, now))
        elif self._begun or not self._may_go_on(now):
            self._begun.append(waiter)
        else:  # nobody waits, as nearly always: then the event itself is the turn
            waiter.switch(None)
            return False
        if not self._running:
            self._running = True
            self._loop.run_callback(self._run)
        return True

    def _may_go_on(self, now: float) -> bool:
        if now != self._round:
            self._round, self._left = now, BEGUN_AT_ONCE
        self._left -= 1
        return self._left >= 0

    def _run(self) -> None:
        now = self._loop.now()
        while self._begun and self._may_go_on(now):
            self._begun.popleft().switch(None)
        most = NEW_AT_ONCE
        if self._begun:
            most = 1 if self._new and now - self._new[0][1] > OVERDUE_S else 0
        for _ in range(min(most, len(self._new))):
            self._new.popleft()[0].switch(None)
        if self._begun or self._new:
            self._again.start(self._run)
        else:
            self._running = False


_turns = cache(_Turns)  # one a hub


class Connection:
    """A socket that carries one request at a time, within a deadline on the clock's monotonic scale.

    One timer a call, not one a wait, holds the deadline: it strikes whoever waits on the socket at that moment.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock, deadline: float) -> None:
        self._clock = clock
        self.idle_since = 0.0
        self._deadline = deadline
        self._timer: Any = None
        self._strikes = 0.0  # when the timer fires, in the loop's time
        self._waiting: Any = None  # the greenlet that waits on the socket
        self._begun = False  # some of the answer has come
        self._socket = _open(endpoint, self._left())
        # No limits of the socket's own, and asked when there is something: a look that finds nothing costs as much
        # as one that does.
        self._socket.settimeout(None)
        self._hub = get_hub()
        self._turns = _turns(self._hub)
        self._news: Any = self._hub.loop.io(self._socket.fileno(), _READ)
        self._listens = False  # kept up from one wait to the next
        self._waiter: Waiter[None] | None = None
        self._looks = _poll()
        self._looks.register(self._socket.fileno(), POLLIN)

    def ask(self, request: bytes, deadline: float) -> Answer:
        """Send a request and read to the end of the answer's head. Raises ``ClosedUnanswered`` besides OSErrors.

        From here until ``rest`` or ``close`` the deadline runs.
        """
        self._run_until(deadline)
        answer = Answer()
        self._begun = False
        self._waiting = getcurrent()
        try:
            sent = self._socket.send(request)  # cheaper than sendall, and nearly always all of it
            if sent < len(request):
                self._socket.sendall(request[sent:])
        except _ENDED:
            pass  # it may have answered before it closed: the reading tells
        finally:
            self._waiting = None
        heard = 0
        while not answer.headers_complete:
            try:
                data = self._receive()
            except _ENDED:
                data = b""
            if not data and not heard:
                raise ClosedUnanswered
            heard += len(data)
            self._begun = True
            _feed(answer, data)
            if heard > MAX_HEAD and not answer.headers_complete:
                raise ProviderGarbage("the head of the provider's answer does not end")
        return answer

    def read(self, answer: Answer) -> None:
        """Wait for more of the answer. Raises at its untimely end, or when the deadline has passed."""
        _feed(answer, self._receive())

    def hasten(self, seconds: float) -> None:
        """Bring the deadline forward to ``seconds`` from now."""
        self._run_until(min(self._deadline, self._clock.monotonic() + seconds))

    def whole(self, answer: Answer) -> bytes:
        while not answer.message_complete:
            self.read(answer)
            if len(answer.body) > MAX_ANSWER:
                raise ProviderGarbage("the provider's answer is larger than an answer can be")
        return bytes(answer.body)

    def quiet(self) -> bool:
        """Whether an idle connection is still open: neither ended nor saying something unasked."""
        return not self._looks.poll(0)

    def rest(self) -> None:
        """The call is over: nothing strikes any more."""
        self._deaf()
        self._disarm()

    def close(self) -> None:
        self.rest()
        self._news.close()
        self._socket.close()

    def _receive(self) -> bytes:
        if self._left() < self._strikes - self._hub.loop.now() - APART_S:
            self._run_until(self._deadline)  # the loop's time is another than the clock's, which counts
        self._waiting = getcurrent()
        try:
            waiter = self._waiter = Waiter()
            if not self._listens:
                self._listens = True
                self._news.start(self._heard)
            waiter.get()
            return self._socket.recv(BLOCK)
        finally:
            self._waiting = self._waiter = None

    def _heard(self) -> None:
        """In the hub, and again in each round in which there is something to read and it still listens."""
        waiter, self._waiter = self._waiter, None
        if waiter is None or self._turns.add(waiter, self._begun):
            self._deaf()

    def _deaf(self) -> None:
        if self._listens:
            self._listens = False
            self._news.stop()

    def _run_until(self, deadline: float) -> None:
        self._disarm()
        self._deadline = deadline
        left = self._left()
        self._timer = self._hub.loop.timer(left)
        self._timer.start(self._strike)
        self._strikes = self._hub.loop.now() + left

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None

    def _strike(self) -> None:
        """In the hub: the deadline has passed, for whoever waits, or will."""
        self._deadline = 0.0  # the loop's time may be a little ahead of the clock's
        if self._waiting is not None:
            self._waiting.throw(ProviderTimeout("the provider did not answer in time"))

    def _left(self) -> float:
        left = self._deadline - self._clock.monotonic()
        if left <= 0:
            raise ProviderTimeout("the deadline passed")
        return left


def _feed(answer: Answer, data: bytes) -> None:
    _parse(answer, data)  # no data is the end, which completes an answer of unknown length
    if not data and not answer.message_complete:
        raise HTTPParseError("the connection ended before the answer")


def _open(endpoint: Endpoint, seconds: float) -> socket:
    """A socket that is ready for requests: name, connection, proxy and TLS within one time."""
    guard = Timeout.start_new(min(seconds, CONNECT_S))
    try:
        sock = _dial(*(endpoint.via or (endpoint.host, endpoint.port)))
        try:
            sock.settimeout(None)
            sock.setsockopt(IPPROTO_TCP, TCP_NODELAY, 1)
            sock.setsockopt(SOL_SOCKET, SO_KEEPALIVE, 1)
            if endpoint.tls is None:
                return sock
            if endpoint.via:
                _tunnel(sock, endpoint)
            # In two steps: the handshake within the first would leave the socket open when the time is up.
            sock = secure = endpoint.tls.wrap_socket(
                sock, server_hostname=endpoint.host, do_handshake_on_connect=False
            )
            secure.do_handshake()
            return secure
        except BaseException:  # the time limit and a kill are not Exceptions
            sock.close()
            raise
    except Timeout as expired:
        if expired is not guard:
            raise
        if seconds > CONNECT_S:
            raise ProviderUnavailable("the provider takes no connection") from None
        raise ProviderTimeout("the provider did not answer in time") from None
    finally:
        guard.close()


def _dial(host: str, port: int) -> socket:
    """The first of a host's addresses that takes a connection.

    Not ``create_connection``: it takes a time limit from outside for one address' failure, and goes on without one.
    """
    found = getaddrinfo(host, port, 0, SOCK_STREAM)
    failure = OSError("the name has no address")
    for family, kind, protocol, _, address in found:
        sock = socket(family, kind, protocol)
        try:
            # An address that is silent, as IPv6 often is, must leave time for the next one.
            sock.settimeout(max(1.0, CONNECT_S / len(found)))
            sock.connect(address)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:  # the time limit and a kill: they are no reason to try the next address
            sock.close()
            raise
    if isinstance(failure, TimeoutError):
        raise ProviderUnavailable("the provider takes no connection") from failure
    raise failure


def _tunnel(sock: socket, endpoint: Endpoint) -> None:
    host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
    target = f"{host}:{endpoint.port}".encode()
    sock.sendall(
        b"CONNECT " + target + b" HTTP/1.1\r\nhost: " + target + b"\r\n" + endpoint.proxy_auth + b"\r\n"
    )
    head = b""
    # Nothing can follow the head: in TLS the server speaks second.
    while not head.endswith(b"\r\n\r\n"):
        more = sock.recv(BLOCK)
        if not more or len(head) > MAX_HEAD:
            raise ProviderUnavailable("the proxy did not open the way to the provider")
        head += more
    if head.split(b" ", 2)[1:2] != [b"200"]:
        raise ProviderUnavailable("the proxy refuses the way to the provider")


def header_lines(headers: Mapping[str, str]) -> bytes:
    """Headers as they are sent. Raises ValueError for what would break out of its line."""
    for name, value in headers.items():
        if not (name + value).isprintable() or not (name + value).isascii():
            raise ValueError(f"the value for the header {name!r} cannot be sent")
    return "".join(f"{name}: {value}\r\n" for name, value in headers.items()).encode()
