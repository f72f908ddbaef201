"""The simulator's HTTP/1.1 server: a minimal asyncio protocol, so that it is never the bottleneck of a benchmark."""

import asyncio
import gzip
import re
from typing import Any
from urllib.parse import parse_qs

import msgspec

from knowalledge_simulator import google, openai, text
from knowalledge_simulator.call import Call, ErrorResponse, Usage
from knowalledge_simulator.provider import Provider, ResponsePlan

MAX_HEAD = 64 * 1024
MAX_BODY = 64 * 1024 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,12})[ \t]*\r\n")
_REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 404: "Not Found", 429: "Too Many Requests"}
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode
_ABSURD_COUNTS = {
    "promptTokenCount": -7,
    "candidatesTokenCount": 10**12,
    "totalTokenCount": 10**12,
    "prompt_tokens": -7,
    "completion_tokens": 10**12,
    "total_tokens": 10**12,
}


class BadRequest(Exception):
    """The bytes are not HTTP/1.1, or too large."""


class Connection(asyncio.Protocol):
    """One client's connection. Its requests are answered one after the other."""

    def __init__(self, provider: Provider, loop: asyncio.AbstractEventLoop) -> None:
        self._provider = provider
        self._loop = loop
        self._transport: asyncio.Transport | None = None
        self._data = bytearray()
        self._busy = False
        self._close_after = False  # this response
        self._stream: StreamedResponse | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, _: Exception | None) -> None:
        self._transport = None
        if self._stream is not None:
            self._stream.abort()
            self._stream = None

    def data_received(self, data: bytes) -> None:
        self._data += data
        self._process()

    def _process(self) -> None:
        while not self._busy and self._data and self._transport is not None:
            try:
                request = self._next_request()
            except BadRequest as error:
                self._close_after = True
                self.send(400, _encode({"error": {"code": 400, "message": str(error)}}))
                return
            if request is None:
                return
            self._busy = True
            self._handle(*request)

    def _next_request(self) -> tuple[str, str, bytes, bytes] | None:
        """The next request: method, target, head in lower case, body. None if it is incomplete."""
        data = self._data
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > MAX_HEAD:
                raise BadRequest("the head is too large")
            return None
        line_end = data.find(b"\r\n")
        parts = bytes(data[:line_end]).split(b" ")
        if len(parts) != 3 or not parts[2].startswith(b"HTTP/1."):
            raise BadRequest("this is not HTTP/1.1")
        head = bytes(data[line_end : end + 2]).lower()
        position = end + 4
        if b"\r\ntransfer-encoding:" in head:
            chunked = _unchunk(data, position)
            if chunked is None:
                self._continue(head)
                return None
            body, position = chunked
        else:
            match = _LENGTH.search(head)
            length = int(match[1]) if match else 0
            if length > MAX_BODY:
                raise BadRequest("the body is too large")
            if len(data) - position < length:
                self._continue(head)
                return None
            body = bytes(data[position : position + length])
            position += length
        del data[:position]
        self._close_after = b"\r\nconnection: close" in head or parts[2] == b"HTTP/1.0"
        return parts[0].decode("latin-1"), parts[1].decode("latin-1"), head, body

    def _continue(self, head: bytes) -> None:
        if b"\r\nexpect: 100-continue" in head and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    # -- responses -----------------------------------------------------------------------------------------------------

    def send(self, status: int, body: bytes, headers: str = "") -> None:
        """Send a complete response, and go on to the next request."""
        transport = self._transport
        if transport is not None:
            reason = _REASONS.get(status, "Error")
            transport.write(
                f"HTTP/1.1 {status} {reason}\r\ncontent-type: application/json; charset=UTF-8\r\n"
                f"content-length: {len(body)}\r\n{headers}\r\n".encode()
                + body
            )
        self.finish()

    def write(self, data: bytes) -> None:
        if self._transport is not None:
            self._transport.write(data)

    def finish(self) -> None:
        """The response has been sent: go on to the next request, or close."""
        self._busy, self._stream = False, None
        if self._close_after:
            self.close()
        elif self._data:
            self._loop.call_soon(self._process)

    def close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    def send_error(self, error: ErrorResponse) -> None:
        headers = "".join(f"{name}: {value}\r\n" for name, value in error.headers.items())
        self.send(error.status, _encode(error.body), headers)

    # -- requests ------------------------------------------------------------------------------------------------------

    def _handle(self, method: str, target: str, head: bytes, body: bytes) -> None:
        path, _, query = target.partition("?")
        if path.startswith("/_"):
            self._handle_control(method, path, query, body)
            return
        openai_path = openai.match(path)
        google_path = None if openai_path else google.match(path)
        if openai_path is None and google_path is None:
            self.send_error(google.GEMINI.error(404, "no such path"))
            return
        dialect = openai.OPENAI if google_path is None else google.dialect_of(google_path)
        key = self._provider.knobs.api_key
        if key and key.lower().encode() not in head and f"key={key}" not in query:
            self.send_error(dialect.error(401, "API key not valid. Please pass a valid API key."))
            return
        try:
            document = _decode(body) if body else {}
            if openai_path is not None:
                call = openai.parse(openai_path, document)
            else:
                assert google_path is not None
                call = google.parse(google_path, query, document)
        except msgspec.DecodeError:
            self.send_error(dialect.error(400, "Invalid JSON payload received."))
        except ValueError as error:
            self.send_error(dialect.error(400, str(error)))
        except (TypeError, AttributeError):
            self.send_error(dialect.error(400, "Invalid value in the request."))
        else:
            self._dispatch(call)

    def _handle_control(self, method: str, path: str, query: str, body: bytes) -> None:
        provider = self._provider
        try:
            if path == "/_stats" and method == "GET":
                options = {name: values[-1] for name, values in parse_qs(query).items()}
                until = options.get("until")
                result = provider.stats(
                    float(options.get("since", 0)),
                    None if until is None else float(until),
                    options.get("timeline", "") not in ("", "0"),
                )
            elif path == "/_control" and method == "POST":
                provider.control(_decode(body))
                result = msgspec.to_builtins(provider.knobs)
            elif path == "/_reset" and method == "POST":
                provider.reset()
                result = {}
            else:
                self.send(404, b'{"error": "GET /_stats, POST /_control, POST /_reset"}')
                return
        except (msgspec.DecodeError, ValueError) as error:
            self.send(400, _encode({"error": str(error)}))
            return
        self.send(200, _encode(result))

    def _dispatch(self, call: Call) -> None:
        provider = self._provider
        if call.kind == "models":
            self.send(200, _encode(call.dialect.models(provider.models(), False)))
        elif not provider.serves(call.model):
            self.send_error(call.dialect.error(404, f"models/{call.model} is not found."))
        elif call.kind == "model":
            self.send(200, _encode(call.dialect.models([call.model], True)))
        elif call.kind == "count":
            self.send(200, _encode(google.token_count(call)))
        else:
            transit = provider.transit()
            if transit:
                self._loop.call_later(transit, self._admit, call)
            else:
                self._admit(call)

    def _admit(self, call: Call) -> None:
        plan = self._provider.admit(call)
        if isinstance(plan, ErrorResponse):
            self.send_error(plan)
        elif plan.fault == "hang":
            return
        elif plan.fault == "reset":
            self.close()
        elif call.stream:
            self._stream = StreamedResponse(self, self._provider, self._loop, plan)
        else:
            delay = plan.first_s + plan.output * plan.token_s
            if delay:
                self._loop.call_later(delay, self._complete, plan)
            else:
                self._complete(plan)

    def _complete(self, plan: ResponsePlan) -> None:
        """End a unary call. It is charged even if the client has disconnected: a provider works on."""
        self._provider.complete(plan, plan.output)
        call, fault = plan.call, plan.fault
        if self._transport is None:
            return
        if call.kind == "embed":
            vectors = [text.vector(it, call.dimensions) for it in call.inputs]
            document = call.dialect.embeddings(call, vectors)
        else:
            answer = answer_text(plan, 0, plan.output)
            document = call.dialect.completion(call, answer, plan.finish, usage_of(plan))
        body = b"<html>garbage</html>" if fault == "garbage" else _encode(with_fault(document, fault))
        if fault == "cut":
            self.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(body) + body[: len(body) // 2])
            self.close()
        elif fault == "gzip":
            self.send(200, gzip.compress(body, 1), "content-encoding: gzip\r\n")
        else:
            self.send(200, body)


def answer_text(plan: ResponsePlan, start: int, tokens: int) -> str:
    """``tokens`` tokens of an answer, from index ``start``."""
    schema_text = plan.call.schema_text
    return text.slice_tokens(schema_text, start, tokens) if schema_text else text.generate(tokens, start)


class StreamedResponse:
    """A streamed answer, one timer per chunk. If the client disconnects, the tokens sent so far are charged."""

    def __init__(
        self,
        connection: Connection,
        provider: Provider,
        loop: asyncio.AbstractEventLoop,
        plan: ResponsePlan,
    ) -> None:
        self._connection, self._provider, self._loop, self._plan = connection, provider, loop, plan
        self._sent = 0  # tokens
        self._events = 0
        self._chunk_tokens = provider.knobs.chunk_tokens
        self._interval_s = plan.token_s * self._chunk_tokens
        call = plan.call
        self._array = not call.sse
        kind = "application/json" if self._array else "text/event-stream"
        self._head = (
            f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncache-control: no-cache\r\n"
            "transfer-encoding: chunked\r\n\r\n"
        ).encode()
        # Absolute times: a loop that is late once does not delay the rest of the stream.
        self._due = loop.time() + plan.first_s
        self._timer: asyncio.Handle
        if plan.first_s:
            self._timer = loop.call_at(self._due, self._step)
        else:
            self._timer = loop.call_soon(self._step)

    def abort(self) -> None:
        """The client has disconnected."""
        self._timer.cancel()
        self._provider.complete(self._plan, self._sent)

    def _step(self) -> None:
        plan, connection = self._plan, self._connection
        call, fault = plan.call, plan.fault
        frames = b""
        if not self._events:
            frames = self._head
            if fault == "stream_429":
                error = call.dialect.quota_error(call, None)
                connection.write(frames + self._event(error.body) + self._terminator())
                connection.finish()
                return
        while True:
            tokens = min(self._chunk_tokens, plan.output - self._sent)
            words = answer_text(plan, self._sent, tokens)
            self._sent += tokens
            if self._sent >= plan.output:
                break
            if fault == "garbage" and self._sent * 2 > plan.output:
                frames += _chunk(b"data: {garbage\n\n")
            else:
                frames += self._event(call.dialect.chunk(call, words, not self._events))
            if fault == "cut" and self._sent * 2 > plan.output:
                connection.write(frames)
                connection.close()
                return
            if self._interval_s:
                connection.write(frames)
                self._due += self._interval_s
                self._timer = self._loop.call_at(self._due, self._step)
                return
        self._provider.complete(plan, plan.output)
        usage = usage_of(plan)
        if fault == "empty":
            final = [call.dialect.completion(call, "", "", usage)]
        elif fault == "safety":
            final = [call.dialect.completion(call, "", "safety", usage)]
        else:
            final = call.dialect.final_chunks(call, words, plan.finish, usage)
        for event in final:
            frames += self._event(with_fault(event, fault))
        connection.write(frames + self._terminator())
        connection.finish()

    def _event(self, event: dict[str, Any]) -> bytes:
        self._events += 1
        body = _encode(event)
        if self._array:
            return _chunk((b"[" if self._events == 1 else b",\r\n") + body)
        return _chunk(b"data: " + body + b"\n\n")

    def _terminator(self) -> bytes:
        last = b"]" if self._array else self._plan.call.dialect.terminator
        return (_chunk(last) if last else b"") + b"0\r\n\r\n"


def usage_of(plan: ResponsePlan) -> Usage | None:
    """The token counts that a response reports."""
    if plan.fault == "no_usage":
        return None
    return Usage(plan.call.tokens, plan.output, plan.thinking)


def with_fault(document: dict[str, Any], fault: str) -> dict[str, Any]:
    """A response body, with absurd counts if that is the fault."""
    if fault != "absurd_usage":
        return document
    for name in ("usageMetadata", "usage"):
        if isinstance(document.get(name), dict):
            usage = document[name]
            document[name] = {key: _ABSURD_COUNTS.get(key, value) for key, value in usage.items()}
    return document


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


def _unchunk(data: bytearray, at: int) -> tuple[bytes, int] | None:
    """A chunked body and the position after it; None if it is incomplete."""
    body = bytearray()
    while True:
        end = data.find(b"\r\n", at)
        if end < 0:
            return None
        try:
            size = int(bytes(data[at:end]).partition(b";")[0], 16)
        except ValueError:
            raise BadRequest("a chunk has no size") from None
        if size < 0 or len(body) + size > MAX_BODY:
            raise BadRequest("the body is too large")
        at = end + 2
        if len(data) < at + size + 2:
            return None
        if not size:
            return bytes(body), at + 2
        body += data[at : at + size]
        at += size + 2


async def serve(provider: Provider, host: str, port: int) -> asyncio.Server:
    """Start the server; port 0 chooses a free one."""
    loop = asyncio.get_running_loop()
    return await loop.create_server(lambda: Connection(provider, loop), host, port, backlog=4096)
