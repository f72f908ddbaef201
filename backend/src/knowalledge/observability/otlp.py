"""The way of spans to their collector: OpenTelemetry's batch processor and its OTLP exporter, protobuf over HTTP.

Imported only where ``tracing.endpoint`` is set: the SDK and what it needs take 9 MB and 0.15 s. Every option is given,
so that no ``OTEL_*`` variable has a say; a change of state is logged once, in place of the SDK's own lines.
What is made differently, and at what price: docs/adr/0011.
"""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from functools import lru_cache
from typing import Any, cast
from urllib.parse import urlsplit

import gevent
import requests
import structlog
from msgspec import Struct
from opentelemetry.exporter.otlp.proto.http import Compression, trace_exporter
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Span as OtlpSpan
from opentelemetry.proto.trace.v1.trace_pb2 import SpanFlags, Status
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter, SpanExportResult
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError

from knowalledge.core.errors import Unavailable
from knowalledge.core.trace_context import Attribute, Attributes
from knowalledge.net.tls import client_context
from knowalledge.observability.spans import SERVER, Span

# How often ended spans are sent, in seconds; also the pause before a collector that is away is tried again.
FLUSH_S = 1.0
# How long the last spans may take when a process ends, in seconds.
LAST_S = 2.0
# Spans that wait to be sent; with more the oldest are dropped. About 1.5 KB each.
MAX_QUEUE = 4096
# Spans of one message: with fewer, sending costs more than writing. The hub has a turn after each piece.
MAX_BATCH, PIECE = 512, 64
# No text of an attribute is longer, and no list: what providers name is theirs.
MAX_TEXT, MAX_ITEMS = 200, 20
_MAX_REPLY = 64 * 1024
_HEADERS = {
    "content-type": "application/x-protobuf",
    "accept-encoding": "identity",
    "user-agent": "knowalledge",
}
# OTLP's own list of answers after which the same may be sent again.
_RETRYABLE = frozenset((429, 502, 503, 504))


class Delivery(StrEnum):
    """What became of a message."""

    SENT = "sent"
    REJECTED = "rejected"  # it will never be taken
    AWAY = "away"  # it may be taken later


class _SystemTrust(HTTPAdapter):
    """HTTPS by the system's certificates (``SSL_CERT_FILE`` is honoured), not by those that requests brings along."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        self._context = client_context()
        super().init_poolmanager(*args, **kwargs)

    def build_connection_pool_key_attributes(
        self, request: requests.PreparedRequest, verify: Any, cert: Any = None
    ) -> Any:
        host, _ = super().build_connection_pool_key_attributes(request, verify, cert)
        return host, {"ssl_context": self._context}

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Certificates and names are checked by the context."""


class Collector(requests.Session):
    """HTTP to the collector, by our settings alone; each request is bounded as a whole, its answer in size."""

    def __init__(
        self, endpoint: str, timeout_s: float, ended: Callable[["Collector"], None] = lambda _: None
    ) -> None:
        """``ended`` is called at the end of each request."""
        super().__init__()
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/")
        self.url = parts._replace(path=path if path.endswith("/v1/traces") else f"{path}/v1/traces").geturl()
        self.host = parts.hostname or ""
        self.trust_env = False  # no proxy, no .netrc, no certificates from the environment
        if parts.scheme == "https":
            self.mount("https://", _SystemTrust())
        self._message = requests.Request("POST", self.url, _HEADERS).prepare()
        self._timeout_s, self._ended = timeout_s, ended
        self.delivery = Delivery.REJECTED  # of the last message ...
        self.reason = ""  # ... and why it was not taken

    def request(self, *_: Any, data: Any = b"", timeout: Any = None, **__: Any) -> requests.Response:
        """Post ``data``. What else OpenTelemetry's exporter hands over may come from ``OTEL_*``: it is left out."""
        self.delivery, self.reason = Delivery.AWAY, ""
        message = self._message.copy()
        message.prepare_body(data, None)
        limit = timeout or self._timeout_s
        ours: dict[str, Any] = {"proxies": {}, "verify": True, "cert": None, "allow_redirects": False}
        try:
            with gevent.Timeout(limit, requests.Timeout("no answer in time")):
                answer = self.send(message, timeout=limit, stream=True, **ours)
                if len(answer.raw.read(_MAX_REPLY)) == _MAX_REPLY:
                    answer.close()
            status = answer.status_code
            self.reason = f"status {status}"
            if status not in _RETRYABLE:
                self.delivery = Delivery.SENT if 200 <= status < 300 else Delivery.REJECTED
            return answer
        except (OSError, HTTPError, ValueError) as error:
            self.reason = type(error).__name__
            raise
        finally:
            self._ended(self)

    def ping(self) -> None:
        """Send a message without spans. Raises ``Unavailable`` with the reason if the collector does not take it."""
        try:
            self.request()
        except (OSError, HTTPError, ValueError) as error:
            raise Unavailable(f"no answer ({self.reason}: {str(error)[:80]})") from error
        finally:
            self.close()
        match self.delivery:
            case Delivery.SENT:
                return
            case Delivery.AWAY:
                raise Unavailable(f"no answer ({self.reason})")
            case Delivery.REJECTED:
                raise Unavailable("it refuses spans: is this the address of an OTLP receiver?")


class _Batch(Struct, frozen=True):
    """Spans as OpenTelemetry's exporter gets them: encoded already, however often it is asked."""

    message: ExportTraceServiceRequest
    number: int

    def __len__(self) -> int:
        return self.number


def _encoded(batch: _Batch) -> ExportTraceServiceRequest:
    return batch.message


trace_exporter.encode_spans = _encoded  # type: ignore[attr-defined, assignment]


class _PersistentExporter(SpanExporter):
    """OpenTelemetry's OTLP exporter, asked again until the collector takes or refuses the spans, or the end."""

    def __init__(
        self, endpoint: str, timeout_s: float, resource: Attributes, counted: Callable[[str, int], None]
    ) -> None:
        self._collector = collector = Collector(endpoint, timeout_s, self._log_change)
        self._resource, self._counted = resource, counted
        self._otlp = trace_exporter.OTLPSpanExporter(
            endpoint=collector.url,
            headers={},
            timeout=timeout_s,
            compression=Compression.NoCompression,  # it would hold the hub
            session=collector,
            meter_provider=NoOpMeterProvider(),
        )
        self.waiting = 0  # spans in the processor's queue
        self.ending = threading.Event()
        self._last = Delivery.SENT

    def export(self, spans: Sequence[Any]) -> SpanExportResult:
        number = len(spans)
        self.waiting -= number
        batch = cast("Sequence[ReadableSpan]", _Batch(encode(self._resource, spans), number))
        while True:
            self._collector.delivery = Delivery.REJECTED  # unless it comes to a request
            result = self._otlp.export(batch)
            delivery = self._collector.delivery
            if delivery is not Delivery.AWAY:
                self._counted(delivery, number)
                return result
            if self.ending.wait(FLUSH_S):
                self._counted("dropped", number)
                return result

    def _log_change(self, collector: Collector) -> None:
        """One line when the collector stops taking spans, and one when it begins again."""
        if collector.delivery is self._last:
            return
        self._last = collector.delivery
        log, where = structlog.get_logger().warning, {"host": collector.host, "error": collector.reason}
        match collector.delivery:
            case Delivery.AWAY:
                log("the store of traces is away", **where)
            case Delivery.REJECTED:
                log("the store of traces refuses them", **where)
            case Delivery.SENT:
                log("the store of traces is back", host=collector.host)

    def shutdown(self) -> None:
        self._otlp.shutdown()  # type: ignore[no-untyped-call]


class Exporter:
    """Takes spans at any rate, and sends them in the background; a request never waits for the collector.

    A collector that is away or slow costs what is bounded here: the oldest spans are dropped.
    """

    def __init__(
        self,
        endpoint: str,
        timeout_s: float,
        resource: Attributes,
        counted: Callable[[str, int], None],
    ) -> None:
        """``counted`` hears how many spans were ``sent``, ``dropped`` for want of room or time, or ``rejected``."""
        self._exporter = _PersistentExporter(endpoint, timeout_s, resource, counted)
        self._timeout_s, self._counted = timeout_s, counted
        self._processor: BatchSpanProcessor | None = None

    def start(self) -> None:
        """In the process that serves: a thread, which is a greenlet there, sends from now on."""
        self._processor = BatchSpanProcessor(
            self._exporter,
            max_queue_size=MAX_QUEUE,
            schedule_delay_millis=FLUSH_S * 1000,
            max_export_batch_size=MAX_BATCH,
            export_timeout_millis=self._timeout_s * 1000,
            meter_provider=NoOpMeterProvider(),
        )

    def put(self, span: Span) -> None:
        """Take one to be sent; at once, whatever the collector does."""
        processor, exporter = self._processor, self._exporter
        if processor is None or exporter.waiting == MAX_QUEUE:
            self._counted("dropped", 1)  # the processor makes room by dropping its oldest
        else:
            exporter.waiting += 1
        if processor is not None:
            processor.on_end(cast("ReadableSpan", span))

    def close(self) -> None:
        """Send what is left; what cannot be sent within ``LAST_S`` is lost."""
        processor, self._processor = self._processor, None
        if processor is None:
            return
        self._exporter.ending.set()
        try:
            with gevent.Timeout(min(LAST_S, self._timeout_s)):
                processor.shutdown()  # type: ignore[no-untyped-call]
        except gevent.Timeout:
            pass


def encode(resource: Attributes, spans: Sequence[Span]) -> ExportTraceServiceRequest:
    """What OpenTelemetry's ``encode_spans`` makes of these, in a quarter of the time.

    That one makes each message apart, and copies it into the next up to four times. Texts and lists are cut here.
    """
    message = ExportTraceServiceRequest()
    of_resource = message.resource_spans.add()
    _write(of_resource.resource.attributes.add, resource)
    of_scope = of_resource.scope_spans.add()
    of_scope.scope.name = "knowalledge"
    for number, span in enumerate(spans, 1):
        written = of_scope.spans.add(
            trace_id=bytes.fromhex(span.trace_id),
            span_id=bytes.fromhex(span.id),
            parent_span_id=bytes.fromhex(span.parent),
            name=span.name,
            kind=span.kind,
            start_time_unix_nano=span.start,
            end_time_unix_nano=span.end,
            flags=SpanFlags.SPAN_FLAGS_CONTEXT_HAS_IS_REMOTE_MASK,
        )
        if span.parent and span.kind == SERVER:
            written.flags |= SpanFlags.SPAN_FLAGS_CONTEXT_IS_REMOTE_MASK
        if span.failed:
            written.status.code = Status.STATUS_CODE_ERROR
        written.MergeFromString(b"".join(map(_encoded_attribute, span.attributes.items())))
        if number % PIECE == 0:
            time.sleep(0)  # gevent's
    return message


def _encoded_attribute(item: tuple[str, Attribute]) -> bytes:
    key, value = item
    return _encoded_once(key, value[:MAX_TEXT] if isinstance(value, str) else value)


@lru_cache(maxsize=1024, typed=True)
def _encoded_once(key: str, value: Attribute) -> bytes:
    """A span that has this attribute alone: put together, such spans are the span with all of them.

    Most attributes repeat from span to span, so most are here already.
    """
    span = OtlpSpan()
    _write(span.attributes.add, {key: value})
    encoded: bytes = span.SerializeToString()
    return encoded


def _write(add: Callable[..., Any], attributes: Mapping[str, Any]) -> None:
    for key, value in attributes.items():
        kind, into = type(value), add(key=key).value
        try:
            if kind is int:
                into.int_value = value
            elif isinstance(value, str):
                into.string_value = value[:MAX_TEXT]
            elif kind is float:
                into.double_value = value
            elif kind is bool:
                into.bool_value = value
            else:
                for text in value[:MAX_ITEMS]:
                    into.array_value.values.add(string_value=text[:MAX_TEXT])
        except ValueError:  # half a character, or a number of more than 64 bits: providers name and count
            into.string_value = str(value).encode(errors="replace")[:MAX_TEXT].decode()
