"""A store of traces for tests: takes OTLP over HTTP and reads it as strictly as OpenTelemetry's own schema does."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


class Seen(NamedTuple):
    """One span as the schema has it."""

    trace: str
    id: str
    parent: str
    name: str
    kind: int
    start: int
    end: int
    attributes: dict[str, Any]
    failed: bool


def spans_of(body: bytes) -> list[Seen]:
    """What a message says. Raises for whatever the schema does not know."""
    read = ExportTraceServiceRequest.FromString(body)
    size = read.ByteSize()
    read.DiscardUnknownFields()
    assert read.ByteSize() == size
    found = []
    for resource in read.resource_spans:
        assert {it.key: it.value.string_value for it in resource.resource.attributes}["service.name"]
        for scope in resource.scope_spans:
            for it in scope.spans:
                assert (len(it.trace_id), len(it.span_id), len(it.parent_span_id) in (0, 8)) == (16, 8, True)
                assert 0 < it.start_time_unix_nano <= it.end_time_unix_nano
                found.append(
                    Seen(
                        it.trace_id.hex(),
                        it.span_id.hex(),
                        it.parent_span_id.hex(),
                        it.name,
                        it.kind,
                        it.start_time_unix_nano,
                        it.end_time_unix_nano,
                        {fact.key: _plain(fact.value) for fact in it.attributes},
                        it.status.code == 2,
                    )
                )
    return found


def _plain(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_plain(it) for it in value.array_value.values]
    return getattr(value, kind)


class Store(ThreadingHTTPServer):
    """Answers ``status``; while ``held`` is clear it does not answer at all."""

    daemon_threads = True

    def __init__(self, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), _Handler)
        self.status = 200
        self.held = threading.Event()
        self.held.set()
        self.asked = 0
        self.reply = b""
        self.taken: list[bytes] = []
        self.heads: list[dict[str, str]] = []
        self.paths: set[str] = set()
        self.connections: set[Any] = set()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that goes in the middle of something is none."""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def spans(self) -> list[Seen]:
        return [span for body in list(self.taken) for span in spans_of(body)]

    def wait(self, enough: Callable[[list[Seen]], object]) -> list[Seen]:
        """The spans, as soon as they are enough."""
        self.until(lambda: enough(self.spans))
        return self.spans

    def until(self, it_is_so: Callable[[], object]) -> None:
        """Return as soon as it is so."""
        for _ in range(400):
            if it_is_so():
                return
            time.sleep(0.05)
        raise AssertionError(f"never came: have {[it.name for it in self.spans]}")

    def trace(self, trace_id: str) -> list[Seen]:
        """All of one trace, once its first span has ended; the steps come before it."""
        mine = [
            it
            for it in self.wait(lambda all_: any(_root(it, trace_id) for it in all_))
            if it.trace == trace_id
        ]
        return sorted(mine, key=lambda it: (it.start, it.end))


def _root(span: Seen, trace_id: str) -> bool:
    return span.trace == trace_id and span.kind == 2


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Store

    def log_message(self, *_: Any) -> None:
        """Nothing to say."""

    def do_POST(self) -> None:
        store = self.server
        body = self.rfile.read(int(self.headers["content-length"]))
        store.asked += 1
        store.held.wait(30)
        if store.status == 200:
            assert self.headers["content-type"] == "application/x-protobuf"
            store.paths.add(self.path)
            store.heads.append(dict(self.headers))
            store.connections.add(self.client_address)
            store.taken.append(body)
        try:
            self.send_response(store.status)
            self.send_header("content-length", str(len(store.reply)))
            self.end_headers()
            self.wfile.write(store.reply)
        except ConnectionError:
            self.close_connection = True  # it did not wait


@contextmanager
def store(port: int = 0) -> Iterator[Store]:
    """A store that runs."""
    with Store(port) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.held.set()
            server.shutdown()
            thread.join(10)
