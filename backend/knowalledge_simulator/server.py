"""The simulator's HTTP/1.1 server: a hand-written protocol, since it must never be what a benchmark waits for."""

import asyncio
import gzip
import re
from typing import Any
from urllib.parse import parse_qs

import msgspec

from knowalledge_simulator import google, openai, text
from knowalledge_simulator.call import Call, Count, Failure
from knowalledge_simulator.provider import Provider, Ticket

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n")
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_ABSURD = {
    "promptTokenCount": -7,
    "candidatesTokenCount": 10**12,
    "totalTokenCount": 10**12,
    "prompt_tokens": -7,
    "completion_tokens": 10**12,
    "total_tokens": 10**12,
}


class Malformed(Exception):
    """What came is not HTTP/1.1, or too much of it."""


class Connection(asyncio.Protocol):
    """One client's connection. Requests on it are answered in turn."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._busy = False
        self._close = False
        self._timer: asyncio.TimerHandle | None = None
        self._stream: Streaming | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._stream is not None:
            self._stream.left()
            self._stream = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._next()

    def _next(self) -> None:
        while not self._busy and self._data and self._transport is not None:
            try:
                request = self._take()
            except Malformed as error:
                self._close = True
                self.send(400, _encode({"error": {"code": 400, "message": str(error)}}))
                return
            if request is None:
                return
            self._busy = True
            self._handle(*request)

    def _take(self) -> tuple[str, str, bytes, bytes] | None:
        """The next whole request: method, target, head in lower case, body. None if it is not all there."""
        data = self._data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD:
                raise Malformed("the head is too large")
            return None
        line_end = data.find(b"\r\n")
        parts = bytes(data[:line_end]).split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            raise Malformed("this is not HTTP/1.1")
        head = bytes(data[line_end : end + 2]).lower()
        after = end + 4
        if b"\r\ntransfer-encoding:" in head:
            found = _unchunk(data, after)
            if found is None:
                self._continue(head)
                return None
            body, after = found
        else:
            match = _LENGTH.search(head)
            length = int(match[1]) if match else 0
            if length > MAX_BODY:
                raise Malformed("the body is too large")
            if len(data) - after < length:
                self._continue(head)
                return None
            body = bytes(data[after : after + length])
            after += length
        del data[:after]
        self._close = b"\r\nconnection: close" in head or parts[2] == b"HTTP/1.0"
        return parts[0].decode("latin-1"), parts[1].decode("latin-1"), head, body

    def _continue(self, head: bytes) -> None:
        if b"\r\nexpect: 100-continue" in head and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- answering ---------------------------------------------------------------------------------------------------

    def send(self, status: int, body: bytes, headers: str = "") -> None:
        """One whole answer; then the next request may be taken."""
        transport = self._transport
        if transport is not None:
            reason = _REASONS.get(status, "Error")
            transport.write(
                f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json; charset=UTF-8\r\n"
                f"content-length: {len(body)}\r\n{headers}\r\n".encode()
                + body
            )
        self.done()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def done(self) -> None:
        """The answer is out."""
        self._busy, self._stream = False, None
        if self._close:
            self.drop()
        elif self._data:
            self._loop.call_soon(self._next)

    def drop(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def fail(self, failure: Failure) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in failure.headers.items())
        self.send(failure.status, _encode(failure.body), headers)

    # -- understanding -----------------------------------------------------------------------------------------------

    def _handle(self, method: str, target: str, head: bytes, body: bytes) -> None:
        path, _, query = target.partition("?")
        if path.startswith("/_"):
            self._operate(method, path, query, body)
            return
        ours = openai.match(path)
        theirs = None if ours else google.match(path)
        if ours is None and theirs is None:
            self.fail(google.GEMINI.failure(404, "no such path"))
            return
        dialect = openai.OPENAI if theirs is None else google.dialect(theirs)
        key = self._provider.knobs.api_key
        if key and key.lower().encode() not in head and f"key={key}" not in query:
            self.fail(dialect.failure(401, "API key not valid. Please pass a valid API key."))
            return
        try:
            document = _decode(body) if body else {}
            if ours is not None:
                call = openai.read(ours, document)
            else:
                assert theirs is not None
                call = google.read(theirs, query, document)
        except msgspec.DecodeError:
            self.fail(dialect.failure(400, "Invalid JSON payload received."))
        except ValueError as error:
            self.fail(dialect.failure(400, str(error)))
        except (TypeError, AttributeError):
            self.fail(dialect.failure(400, "Invalid value in the request."))
        else:
            self._answer(call)

    def _operate(self, method: str, path: str, query: str, body: bytes) -> None:
        provider = self._provider
        try:
            if path == "/_stats" and method == "GET":
                asked = {name: values[-1] for name, values in parse_qs(query).items()}
                until = asked.get("until")
                found = provider.stats(
                    float(asked.get("since", 0)),
                    None if until is None else float(until),
                    asked.get("timeline", "") not in ("", "0"),
                )
            elif path == "/_control" and method == "POST":
                provider.control(_decode(body))
                found = msgspec.to_builtins(provider.knobs)
            elif path == "/_reset" and method == "POST":
                provider.reset()
                found = {}
            else:
                self.send(404, b'{"error": "GET /_stats, POST /_control, POST /_reset"}')
                return
        except (msgspec.DecodeError, ValueError) as error:
            self.send(400, _encode({"error": str(error)}))
            return
        self.send(200, _encode(found))

    def _answer(self, call: Call) -> None:
        provider = self._provider
        if call.kind == "models":
            self.send(200, _encode(call.dialect.described(provider.models(), False)))
        elif not provider.known(call.model):
            self.fail(call.dialect.failure(404, f"models/{call.model} is not found."))
        elif call.kind == "model":
            self.send(200, _encode(call.dialect.described([call.model], True)))
        elif call.kind == "count":
            self.send(200, _encode(google.counted(call)))
        else:
            transit = provider.transit()
            if transit:
                self._loop.call_later(transit, self._arrived, call)
            else:
                self._arrived(call)

    def _arrived(self, call: Call) -> None:
        ticket = self._provider.admit(call)
        if isinstance(ticket, Failure):
            self.fail(ticket)
        elif ticket.fault == "hang":
            return
        elif ticket.fault == "reset":
            self.drop()
        elif call.stream:
            self._stream = Streaming(self, self._provider, self._loop, ticket)
        else:
            delay = ticket.first_s + ticket.output * ticket.token_s
            if delay:
                self._loop.call_later(delay, self._whole, ticket)
            else:
                self._whole(ticket)

    def _whole(self, ticket: Ticket) -> None:
        """The end of a unary call. It is charged even if the client has left: the provider worked on."""
        self._provider.complete(ticket, ticket.output)
        call, fault = ticket.call, ticket.fault
        if self._transport is None:
            return
        if call.kind == "embed":
            vectors = [text.vector(it, call.dimensions) for it in call.inputs]
            found = call.dialect.vectors(call, vectors)
        else:
            found = call.dialect.whole(call, said(ticket, 0, ticket.output), ticket.finish, count_of(ticket))
        body = b"<html>garbage</html>" if fault == "garbage" else _encode(spoilt(found, fault))
        if fault == "cut":
            self.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])
            self.drop()
        elif fault == "gzip":
            self.send(200, gzip.compress(body, 1), "content-encoding: gzip\r\n")
        else:
            self.send(200, body)


def said(ticket: Ticket, start: int, tokens: int) -> str:
    """Some of an answer's text."""
    given = ticket.call.said
    return text.part(given, start, tokens) if given else text.say(tokens, start)


class Streaming:
    """One streamed answer, a chunk a timer. What was said when the client leaves is charged then."""

    def __init__(
        self,
        connection: Connection,
        provider: Provider,
        loop: asyncio.AbstractEventLoop,
        ticket: Ticket,
    ) -> None:
        self._connection, self._provider, self._loop, self._ticket = connection, provider, loop, ticket
        self._said = 0
        self._events = 0
        self._size = provider.knobs.chunk_tokens
        self._gap = ticket.token_s * self._size
        call = ticket.call
        self._array = not call.sse
        kind = "application/json" if self._array else "text/event-stream"
        self._head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: no-cache\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        ).encode()
        # A timer keeps its own moment, so a late loop doesn't stretch the stream.
        self._at = loop.time() + ticket.first_s
        self._timer: asyncio.Handle
        if ticket.first_s:
            self._timer = loop.call_at(self._at, self._step)
        else:
            self._timer = loop.call_soon(self._step)

    def left(self) -> None:
        """The client is gone."""
        self._timer.cancel()
        self._provider.complete(self._ticket, self._said)

    def _step(self) -> None:
        ticket, connection = self._ticket, self._connection
        call, fault = ticket.call, ticket.fault
        frames = b""
        if not self._events:
            frames = self._head
            if fault == "stream_429":
                failure = call.dialect.refusal(call, None)
                connection.write(frames + self._event(failure.body) + self._end())
                connection.done()
                return
        while True:
            tokens = min(self._size, ticket.output - self._said)
            words = said(ticket, self._said, tokens)
            self._said += tokens
            if self._said >= ticket.output:
                break
            if fault == "garbage" and self._said * 2 > ticket.output:
                frames += _chunk(b"data: {garbage\n\n")
            else:
                frames += self._event(call.dialect.piece(call, words, not self._events))
            if fault == "cut" and self._said * 2 > ticket.output:
                connection.write(frames)
                connection.drop()
                return
            if self._gap:
                connection.write(frames)
                self._at += self._gap
                self._timer = self._loop.call_at(self._at, self._step)
                return
        self._provider.complete(ticket, ticket.output)
        if fault == "empty":
            last = [call.dialect.whole(call, "", "", count_of(ticket))]
        elif fault == "safety":
            last = [call.dialect.whole(call, "", "safety", count_of(ticket))]
        else:
            last = call.dialect.last(call, words, ticket.finish, count_of(ticket))
        for event in last:
            frames += self._event(spoilt(event, fault))
        connection.write(frames + self._end())
        connection.done()

    def _event(self, event: dict[str, Any]) -> bytes:
        self._events += 1
        body = _encode(event)
        if self._array:
            return _chunk((b"[" if self._events == 1 else b",\r\n") + body)
        return _chunk(b"data: " + body + b"\n\n")

    def _end(self) -> bytes:
        end = b"]" if self._array else self._ticket.call.dialect.end
        return (_chunk(end) if end else b"") + b"0\r\n\r\n"


def count_of(ticket: Ticket) -> Count | None:
    """The usage that an answer tells."""
    if ticket.fault == "no_usage":
        return None
    return Count(ticket.call.tokens, ticket.output, ticket.thinking)


def spoilt(document: dict[str, Any], fault: str) -> dict[str, Any]:
    """An answer with absurd counts, if that is the fault."""
    if fault != "absurd_usage":
        return document
    for name in ("usageMetadata", "usage"):
        if isinstance(document.get(name), dict):
            usage = document[name]
            document[name] = {key: _ABSURD.get(key, value) for key, value in usage.items()}
    return document


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _unchunk(data: bytearray, at: int) -> tuple[bytes, int] | None:
    """A chunked body and where it ends; None if it is not all there."""
    body = bytearray()
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        try:
            size = int(bytes(data[at:end]).partition(b";")[0], 16)
        except ValueError:
            raise Malformed("a chunk has no size") from None
        if size < 0 or len(body) + size > MAX_BODY:
            raise Malformed("the body is too large")
        at = end + 2
        if len(data) < at + size + 2:
            return None
        if not size:
            return bytes(body), at + 2
        body += data[at : at + size]
        at += size + 2


async def serve(provider: Provider, host: str, port: int) -> asyncio.Server:
    """Listen."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(provider, loop), host, port, backlog=4096)
