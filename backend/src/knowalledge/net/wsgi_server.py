"""HTTP/1.1 over gevent's WSGI server: strict framing, bounded silence, and a drain that ends no response.

pywsgi keeps what it is good at, running the application and framing its answer. What comes from the client is read
here: after anything that is malformed, and after a body that was not read, the connection ends with its answer.
"""

import errno
import socket
import sys
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Any
from urllib.parse import unquote_to_bytes

import gevent
from gunicorn.workers.ggevent import PyWSGIHandler, PyWSGIServer

from knowalledge.net.presence import HUB_WRITE
from knowalledge.net.wsgi_body import MIN_RATE, MalformedBody, RequestBody
from knowalledge.net.wsgi_head import MAX_LINE, MalformedRequest, RequestHead, parse_request_line

HEADERS_S = 10.0  # a request's head must arrive within this, from its first line on
WRITE_S = (
    20.0  # a client may take nothing for this long; over a whole answer it must keep up MIN_RATE as well
)
LINGER_S = 2.0  # after a fault the client may go on sending for this long, so that it can read its answer
MAX_LINGER = 16 * 1024 * 1024  # bytes that it may go on sending
MAX_SKIPPED = 64 * 1024  # bytes of an unread body that are read, if they are there, to keep the connection
MAX_JOINED = 64 * 1024  # bytes of a body that is copied behind its head: a second send would cost more
FIRST_REQUEST_S = 1.0  # when draining: a new connection may still send its first request within this
# Above its limit a server takes this many connections more, for probes alone.
RESERVED = 64
PROBES = frozenset(("/api/health", "/api/ready", "/metrics", "/api/metrics"))
_QUIETLY: Any = False  # a timeout of gevent that only ends its block
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CROWDED = "503 Service Unavailable"


class Handler(PyWSGIHandler):  # type: ignore[misc]
    """A connection. Its silence is bounded, and once the server drains it closes after the running response."""

    has_served = False  # whether a request has been read
    in_head = False  # a request has begun
    crowded = False  # the server has too many connections: this one is for probes alone
    _blocked_s = 0.0  # how long the client has made this response wait, in seconds

    def handle(self) -> None:
        # One timer of each kind per connection, not per request.
        timer, self._self = gevent.get_hub().loop.timer, gevent.getcurrent()
        self._idle, self._slow = timer(0.0, self.server.keepalive_s), timer(0.0, HEADERS_S)
        self._body: Any = None
        try:
            while self.handle_one_request():
                pass
        except OSError:
            pass  # the connection has ended by itself
        finally:
            self._end()

    def _end(self) -> None:
        self.server.forget(self)
        for timer in (self._idle, self._slow, self._body):
            if timer is not None:
                timer.stop()
                timer.close()
        try:
            # Closed with bytes unread, the connection would be reset, and the client lose its answer.
            self.socket.settimeout(0.0)
            while self.socket.recv(MAX_JOINED):
                pass
        except OSError:
            pass
        self.socket.close()
        # Each of these closes a circle, which only a full collection would free.
        self.rfile.close()
        self.__dict__.clear()

    def handle_one_request(self) -> bool:
        """Serve one request. False: the connection is over."""
        try:
            line = self._read_line()
            if not line:
                return False
            self._read_head(line)
        except MalformedRequest as error:
            self._refuse(error.status, str(error))
            return False
        self.environ = self.get_environ()
        self.application = self.server.application
        if self.crowded and self.path not in PROBES:
            self._refuse(_CROWDED, "the server has too many connections", b"Retry-After: 1\r\n")
            return False
        if self.path == "*":
            self.application = _describe_server
        self.handle_one_response()
        body = self.wsgi_input
        if not body.ended:
            self._linger()
            return False
        return not (self.close_connection or self.crowded or self.server.draining)

    def _read_line(self) -> bytes:
        """The next request line; empty at the end of the connection."""
        self.server.await_request(self)
        self._idle.again(self._late, TimeoutError, "the connection was idle")
        try:
            line: bytes = self.rfile.readline(MAX_LINE + 1)
            if line == b"\r\n":  # RFC 9112, 2.2: some clients end a body with a line too many
                line = self.rfile.readline(MAX_LINE + 1)
        except OSError:
            return b""
        finally:
            self._idle.stop()
            self.has_served = True
        if len(line) > MAX_LINE:
            raise MalformedRequest("the request line is too long", "414 URI Too Long")
        return line

    def _read_head(self, line: bytes) -> None:
        self.command, self.path, self.request_version, authority = parse_request_line(line)
        self.in_head = True
        late = MalformedRequest("the head took too long", "408 Request Timeout")
        self._slow.again(self._throw, late)
        try:
            head = self.headers = RequestHead(self.rfile, self.request_version)
        except OSError as error:
            raise MalformedRequest("the head does not end") from error
        finally:
            self._slow.stop()
            self.in_head = False
            self.server.forget(self)
        self._authority = authority
        self.close_connection = not head.keeps_alive(self.request_version)

    def _late(self, kind: type[Exception], why: str) -> None:
        """Called in the hub: raise in the connection's greenlet."""
        self._self.throw(kind(why))

    def _throw(self, error: Exception) -> None:
        self._self.throw(error)

    def _watch_body(self, seconds: float) -> None:
        """The next bytes of a body may take this long; 0: they are there."""
        if seconds and self._body is None:
            self._body = gevent.get_hub().loop.timer(0.0, seconds)
        if seconds:
            self._body.again(self._late, MalformedBody, "the body did not come")
        elif self._body is not None:
            self._body.stop()

    def get_environ(self) -> dict[str, Any]:
        environ: dict[str, Any] = self.server.get_environ()
        head = self.headers
        path, _, environ["QUERY_STRING"] = self.path.partition("?")
        environ["REQUEST_METHOD"], environ["SERVER_PROTOCOL"] = self.command, self.request_version
        environ["SCRIPT_NAME"], environ["PATH_INFO"] = (
            "",
            (path if "%" not in path else unquote_to_bytes(path.encode("latin-1")).decode("latin-1")),
        )
        if (kind := head.get("content-type")) is not None:
            environ["CONTENT_TYPE"] = kind
        if (length := head.get("content-length")) is not None:
            environ["CONTENT_LENGTH"] = length
        if isinstance(self.client_address, tuple):
            environ["REMOTE_ADDR"], environ["REMOTE_PORT"] = (
                self.client_address[0],
                str(self.client_address[1]),
            )
        for key, value in head.environ():
            if key in environ:
                environ[key] += ("; " if key == "HTTP_COOKIE" else ",") + value
            else:
                environ[key] = value
        if self._authority is not None:
            environ["HTTP_HOST"] = self._authority
        body = self.wsgi_input = RequestBody(self.rfile, head.content_length, head.chunked)
        if not body.ended:
            body.watch(self._watch_body)
            if (head.get("expect") or "").lower() == "100-continue" and self.request_version == "HTTP/1.1":
                body.before_first = self._ask_for_body
        environ["wsgi.input"], environ["wsgi.input_terminated"] = body, True
        environ["gunicorn.sock"] = self.socket
        environ[HUB_WRITE] = self.write_from_hub
        return environ

    def _ask_for_body(self) -> None:
        self._sendall(_CONTINUE)

    def write_from_hub(self, data: bytes) -> None:
        """Write a small piece of the body from the hub, while the application writes nothing.

        Does nothing if no body has begun, or if the socket's buffer is full.
        """
        if not self.headers_sent:
            return
        framed = b"%x\r\n%b\r\n" % (len(data), data) if self.response_use_chunked else data
        try:
            if self.socket.send(framed, 0, timeout=0.0) < len(framed):
                self.socket.shutdown(socket.SHUT_RDWR)  # a part of a piece cannot be taken back
        except (AttributeError, OSError):
            pass  # the connection has ended by itself

    def start_response(self, status: str, headers: Any, exc_info: Any = None) -> Any:
        if not self.wsgi_input.ended:
            self._skip_body()
        if self.close_connection or self.crowded or self.server.draining or not self.wsgi_input.ended:
            headers = [*headers, ("Connection", "close")]
        return super().start_response(status, headers, exc_info)

    def _skip_body(self) -> None:
        """Read what has arrived of a body that the application has not read; waits for nothing."""
        body = self.wsgi_input
        if body.before_first is not None:
            return  # the client waits to be asked
        self.socket.settimeout(0.0)
        try:
            body.read(MAX_SKIPPED)
        except OSError:
            pass  # it has not ended
        finally:
            self.socket.settimeout(None)

    def handle_one_response(self) -> None:
        self.status = self.result = None
        self.headers_sent = self.response_use_chunked = False
        self.response_length, self._blocked_s = 0, 0.0
        try:
            self.run_application()
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True  # the client has left
        except BaseException:  # noqa: BLE001 - reported; the connection ends
            self.handle_error(*sys.exc_info())

    def handle_error(self, t: Any, v: Any, tb: Any) -> None:
        """An application failed beyond its own handling, or its greenlet was killed."""
        self.close_connection = True
        self.server.record_refusal(500, "the application failed")
        super().handle_error(t, v, tb)

    def _write(self, data: bytes) -> None:
        if data and self.command != "HEAD":
            self._sendall(b"%x\r\n%b\r\n" % (len(data), data) if self.response_use_chunked else data)

    def _write_with_headers(self, data: bytes) -> None:
        # One send with the body, or its beginning; gevent's own method sends twice, and wakes the client twice.
        self.headers_sent = True
        self.finalize_headers()
        if self.command == "HEAD":
            self.response_use_chunked, data = False, b""
        lines = b"".join(b"%b: %b\r\n" % pair for pair in self.response_headers)
        status: Any = self.status
        head = b"HTTP/1.1 %b\r\n%b\r\n" % (status, lines)
        if len(data) > MAX_JOINED:
            self._sendall(head)
            self._write(data)
        elif self.response_use_chunked and data:
            self._sendall(b"%b%x\r\n%b\r\n" % (head, len(data), data))
        else:
            self._sendall(head + data)

    def _sendall(self, data: bytes) -> None:
        # gevent's sendall asks the kernel for its buffer's size at every call; nearly always one send is enough.
        try:
            sent = self.socket.send(data, 0, timeout=0.0)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._send_slowly(memoryview(data)[sent:])
        self.response_length += len(data)

    def _send_slowly(self, data: memoryview) -> None:
        """Wait for a client whose buffer is full, for as long as it takes something at the least rate.

        Raises BrokenPipeError, which pywsgi takes as the client's leaving.
        """
        connection, began, sent = self.socket, monotonic(), 0
        while sent < len(data):
            patience = (
                WRITE_S + (self.response_length + sent) / MIN_RATE - self._blocked_s - (monotonic() - began)
            )
            connection.settimeout(max(0.001, min(WRITE_S, patience)))
            try:
                sent += connection.send(data[sent : sent + MAX_JOINED])
            except TimeoutError as error:
                raise BrokenPipeError(errno.EPIPE, "the client takes nothing") from error
            finally:
                connection.settimeout(None)
        self._blocked_s += monotonic() - began

    def _refuse(self, status: str, reason: str, fields: bytes = b"") -> None:
        """Answer what is no request of the application's, once; the connection then ends."""
        self.server.record_refusal(int(status[:3]), reason)
        head = f"HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: 0\r\n".encode()
        try:
            self._sendall(head + fields + b"\r\n")
            self._linger()
        except OSError:
            pass  # the connection has ended by itself

    def _linger(self) -> None:
        """Take what the client still sends for a while: a reset could overtake the answer on its way."""
        self.server.await_request(self)
        left = MAX_LINGER
        try:
            self.socket.shutdown(socket.SHUT_WR)
            with gevent.Timeout(LINGER_S, _QUIETLY):
                while left > 0 and (data := self.socket.recv(MAX_JOINED)):
                    left -= len(data)
        except OSError:
            pass  # the connection has ended by itself

    def log_request(self) -> None:
        """Nothing: the telemetry logs requests."""

    def leave(self) -> None:
        """End the wait for a request. One that has arrived is still read and served."""
        try:
            self.socket.shutdown(socket.SHUT_RD)
        except (AttributeError, OSError):
            pass  # the connection has ended by itself


def _describe_server(_: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    """The answer to ``OPTIONS *``, which asks what the server can do (RFC 9110, 9.3.7)."""
    start_response("204 No Content", [("Allow", "GET, HEAD, OPTIONS, POST")])
    return ()


class DrainingServer(PyWSGIServer):  # type: ignore[misc]
    """Bounds its connections; when it closes, idle ones end, and each other one ends after its response.

    Above ``limit`` connections the one that has waited longest for a request makes place for the new one, first of
    those that have never sent any. If all are busy, the new one is for probes alone.
    """

    def __init__(
        self,
        *args: Any,
        keepalive_s: float = 75.0,
        on_refusal: Callable[[int, str], object] = lambda *_: None,
        **kwargs: Any,
    ) -> None:
        """``keepalive_s``: how long a connection may be idle. ``on_refusal`` gets the status and the reason."""
        self.draining = False
        self.keepalive_s = keepalive_s
        self.record_refusal = on_refusal
        self._silent: dict[Handler, None] = {}  # those that have not sent a request, the oldest first
        self._waiting: dict[Handler, None] = {}  # those that have
        super().__init__(*args, **kwargs)

    def handle(self, connection: Any, address: Any) -> None:
        handler = self.handler_class(connection, address, self)
        pool = self.pool
        if pool is not None and len(pool) > pool.size - RESERVED:
            handler.crowded = not self._make_place()
        handler.handle()

    def _make_place(self) -> bool:
        for handlers in (self._silent, self._waiting):
            for handler in handlers:
                del handlers[handler]
                handler.leave()
                return True
        return False

    def await_request(self, handler: Handler) -> None:
        """A connection waits for its client: it may be ended."""
        (self._waiting if handler.has_served else self._silent)[handler] = None

    def forget(self, handler: Handler) -> None:
        """A connection is busy, or over."""
        self._silent.pop(handler, None)
        self._waiting.pop(handler, None)

    def close(self) -> None:
        super().close()
        if self.draining:
            return
        self.draining = True
        self._leave_idle(self._waiting)
        gevent.spawn_later(FIRST_REQUEST_S, self._leave_all)

    def _leave_all(self) -> None:
        self._leave_idle(self._silent)
        self._leave_idle(self._waiting)

    def _leave_idle(self, handlers: Iterable[Handler]) -> None:
        for handler in list(handlers):
            if not handler.in_head:
                handler.leave()
