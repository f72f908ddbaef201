"""Every span and attribute, once; and their way to a store as OTLP over HTTP, in its JSON form.

Own code in place of OpenTelemetry's SDK: docs/adr/0014. Attributes are those of OpenTelemetry's semantic conventions
(http, gen_ai, error) where they have one, else ``knowalledge.*``. A request that is not traced makes no object here.
"""

import ssl
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from itertools import islice
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import gevent
import msgspec
import structlog
from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.context import Priority
from knowalledge.core.errors import Unavailable
from knowalledge.core.trace_context import Parent, is_sampled, parent_of
from knowalledge.gateway.domain.answer import Finish, Usage
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.ports import Record
from knowalledge.quota.domain.window import TokenCost

Fact = str | int | float | bool | tuple[str, ...]
Attributes = dict[str, Fact]

# How often what has ended is sent, in seconds.
FLUSH_S = 0.5
# How long the last ones may take when a process ends, in seconds.
LAST_S = 2.0
# Spans that wait to be sent; with more the oldest are let go. About 600 bytes each.
MOST_WAITING = 4096
# Spans of one message: its making holds the hub for less than 2 ms.
MOST_SENT = 128
# Callers may ask for their requests to be traced; of those who do, this many a second are, the rest by chance.
ASKED_A_SECOND = 50
# No text of an attribute is longer: what providers say is theirs.
LONGEST = 200
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
_INTERNAL, _SERVER, _CLIENT = 1, 2, 3
_OK_FOR_US = frozenset((Outcome.INVALID, Outcome.BLOCKED, Outcome.REFUSED, Outcome.CLIENT_GONE, Outcome.OK))


class Span(Struct, frozen=True):
    """A step that is over; times in nanoseconds since the epoch."""

    trace_id: str
    id: str
    parent: str  # empty: none
    name: str
    kind: int
    start: int
    end: int
    facts: Attributes
    failed: bool = False


class TargetInfo(Struct, frozen=True):
    """What a target is, for its spans."""

    provider: str  # as gen_ai.provider.name has it
    model: str  # the provider's own name for it


class SpanTracer:
    """Implements ``Tracer``: who is traced is the caller's choice if it came with one, else chance."""

    def __init__(
        self, clock: Clock, share: float, targets: Mapping[str, TargetInfo], export: Callable[[Span], None]
    ) -> None:
        """``share`` of the requests without a caller's choice are traced, 0 to 1."""
        self._clock, self._share, self._export = clock, share, export
        self._targets = targets
        self._second, self._left = 0.0, 0

    def begin(self, method: str, traceparent: str | None) -> "ServedTrace | None":
        parent = parent_of(traceparent) if traceparent else None
        if parent is None:
            trace_id = token_hex(16)
            if not is_sampled(trace_id, self._share):
                return None
        elif not parent.sampled or not (self._may_ask() or is_sampled(token_hex(16), self._share)):
            return None  # by dice of our own: the caller chose the id, and could choose one that is drawn
        else:
            trace_id = parent.trace_id
        return ServedTrace(trace_id, parent, method, self._clock, self._targets, self._export)

    def _may_ask(self) -> bool:
        now = self._clock.monotonic()
        if now - self._second >= 1:
            self._second, self._left = now, ASKED_A_SECOND
        self._left -= 1
        return self._left >= 0


class ServedTrace:
    """Implements ``Served``: each step becomes a span below the request's own."""

    __slots__ = (
        "_answer",
        "_begun",
        "_clock",
        "_epoch",
        "_export",
        "_id",
        "_method",
        "_over",
        "_parent",
        "_route",
        "_status",
        "_targets",
        "_told",
        "id",
    )

    live = True

    def __init__(
        self,
        trace_id: str,
        parent: Parent | None,
        method: str,
        clock: Clock,
        targets: Mapping[str, TargetInfo],
        export: Callable[[Span], None],
    ) -> None:
        self.id = trace_id
        self._id = token_hex(8)
        self._parent = parent.span_id if parent else ""
        self._method = method if method in _METHODS else "_OTHER"
        self._clock, self._targets, self._export = clock, targets, export
        self._begun = clock.monotonic()
        self._epoch = clock.now() - self._begun
        self._route, self._status = "", 0
        self._answer: Attributes = {}
        self._told: Record | None = None
        self._over = False

    def looked(self, began: float, result: str, layer: str) -> None:
        facts: Attributes = {"knowalledge.cache.result": result}
        if layer:
            facts["knowalledge.cache.layer"] = layer
        self._step("cache", began, facts)

    def waited(
        self,
        began: float,
        target: str,
        level: Priority,
        position: int,
        waited_s: float,
        passed: tuple[str, ...] = (),
        degraded: bool = False,
        error: str = "",
    ) -> None:
        facts: Attributes = {
            "knowalledge.priority": level.label,
            "knowalledge.queue.position": position,
            "knowalledge.queue.waited_s": round(waited_s, 6),
        }
        if target:
            facts["knowalledge.target"] = target
        if passed:
            facts["knowalledge.targets.passed"] = passed
        if degraded:
            facts["knowalledge.quota.degraded"] = True
        self._step("queue", began, facts, error=error)

    def tried(
        self,
        began: float,
        target: str,
        tier: int,
        reason: str,
        retry: int,
        outcome: str,
        *,
        operation: str = "chat",
        usage: Usage | None = None,
        finish: Finish | None = None,
        version: str = "",
        first_token: float = 0.0,
        quota_id: str = "",
        error: str = "",
    ) -> None:
        facts: Attributes = {
            "knowalledge.target": target,
            "knowalledge.target.tier": tier,
            "knowalledge.target.reason": reason,
            "knowalledge.retry": retry,
            "knowalledge.outcome": outcome,
        }
        asked = self._targets.get(target)
        facts["gen_ai.operation.name"] = operation
        if asked is not None:
            facts["gen_ai.provider.name"] = asked.provider
            facts["gen_ai.request.model"] = asked.model
        if version:
            facts["gen_ai.response.model"] = version
        if finish is not None:
            facts["gen_ai.response.finish_reasons"] = (finish.value,)
        if first_token:
            facts["gen_ai.response.time_to_first_chunk"] = round(first_token - began, 6)
        if usage is not None:
            facts["gen_ai.usage.input_tokens"] = usage.input
            facts["gen_ai.usage.output_tokens"] = usage.generated
            if usage.thinking:
                facts["gen_ai.usage.reasoning.output_tokens"] = usage.thinking
            if usage.cached:
                facts["gen_ai.usage.cache_read.input_tokens"] = usage.cached
        if quota_id:
            facts["knowalledge.quota.id"] = quota_id
        self._step("provider", began, facts, _CLIENT, error)

    def settled(
        self, began: float, target: str, ending: str, estimate: TokenCost, true: TokenCost | None = None
    ) -> None:
        facts: Attributes = {
            "knowalledge.target": target,
            "knowalledge.settle.ending": ending,
            "knowalledge.estimate.input_tokens": estimate.input,
            "knowalledge.estimate.output_tokens": estimate.output,
        }
        if true is not None:
            facts["knowalledge.charged.input_tokens"] = true.input
            facts["knowalledge.charged.output_tokens"] = true.output
        self._step("settle", began, facts)

    def told(self, record: Record) -> None:
        self._told = record

    def answered(self, route: str, status: int, request_id: str) -> None:
        self._route, self._status = route, status
        self._answer = {
            "http.request.method": self._method,
            "http.response.status_code": status,
            "knowalledge.request_id": request_id,
        }
        if route:
            self._answer["http.route"] = route

    def ended(self, error: str = "") -> None:
        if self._over:
            return
        self._over = True
        facts, record, failed = self._answer, self._told, bool(error) or self._status >= 500
        if record is not None:
            facts["gen_ai.request.model"] = record.model
            facts["knowalledge.outcome"] = record.outcome
            facts["knowalledge.priority"] = record.priority.label
            facts["knowalledge.cache.status"] = record.cache
            if record.target:
                facts["knowalledge.target"] = record.target
            error = record.error or error
            failed = failed or bool(record.error and record.outcome not in _OK_FOR_US)
        if error or failed:
            facts["error.type"] = error or str(self._status)
        name = f"{self._method} {self._route}".rstrip()
        self._put(self._id, self._parent, name, _SERVER, self._begun, facts, failed)

    def _step(
        self, name: str, began: float, facts: Attributes, kind: int = _INTERNAL, error: str = ""
    ) -> None:
        if error:
            facts["error.type"] = error
        self._put(token_hex(8), self._id, name, kind, began, facts, bool(error))

    def _put(
        self, span: str, parent: str, name: str, kind: int, began: float, facts: Attributes, failed: bool
    ) -> None:
        start, end = self._at(began), self._at(self._clock.monotonic())
        self._export(Span(self.id, span, parent, name, kind, start, max(start, end), facts, failed))

    def _at(self, moment: float) -> int:
        return int((self._epoch + moment) * 1e9)


class Exporter:
    """Keeps spans until they are sent, in the background, by one greenlet; a request never waits for it.

    A store that is away costs what is bounded here: the oldest spans are let go, and one log line says so.
    """

    def __init__(
        self,
        endpoint: str,
        timeout_s: float,
        resource: Mapping[str, Fact],
        counted: Callable[[str, int], None],
    ) -> None:
        """``counted`` hears how many spans were ``sent``, ``dropped`` for want of room, or ``rejected``."""
        parts = urlsplit(endpoint)
        path = parts.path.rstrip("/")
        self._path = path if path.endswith("/v1/traces") else f"{path}/v1/traces"
        self._host, self._port = parts.hostname or "", parts.port
        self._context = ssl.create_default_context() if parts.scheme == "https" else None
        self._timeout_s, self._counted = timeout_s, counted
        self._resource = {"attributes": _attributes(resource)}
        self._waiting: deque[Span] = deque()
        self._sending: tuple[Span, ...] = ()  # again and again until the store takes or refuses them
        self._connection: HTTPConnection | None = None
        self._away = False
        self._log = structlog.get_logger()

    def put(self, span: Span) -> None:
        """Take one to be sent; at once, whatever the store does."""
        if len(self._waiting) >= MOST_WAITING:
            self._waiting.popleft()
            self._counted("dropped", 1)
        self._waiting.append(span)

    def flush(self) -> None:
        """Send all that waits, unless the store does not take it."""
        while self._sending or self._waiting:
            if not self._sending:
                self._sending = tuple(islice(self._waiting, MOST_SENT))
                for _ in self._sending:
                    self._waiting.popleft()
            try:
                body = message(self._resource, self._sending)
            except UnicodeEncodeError:  # half a character in what a provider named
                self._ended("rejected")
                continue
            try:
                taken = self._send(body)
            except (OSError, HTTPException, ValueError, gevent.Timeout) as error:
                self._hang_up()
                if not self._away:
                    self._away = True
                    self._log.warning(
                        "the store of traces is away", host=self._host, error=type(error).__name__
                    )
                return
            self._ended("sent" if taken else "rejected")
            if self._away:
                self._away = False
                self._log.warning("the store of traces is back", host=self._host)

    def _ended(self, result: str) -> None:
        self._counted(result, len(self._sending))
        self._sending = ()

    def ping(self) -> None:
        """Ask the store to take no spans. Raises ``Unavailable`` with the reason if it would not take any."""
        try:
            taken = self._send(message(self._resource, ()))
        except (OSError, HTTPException, ValueError, gevent.Timeout) as error:
            raise Unavailable(f"no answer ({type(error).__name__}: {str(error)[:80]})") from error
        finally:
            self._hang_up()
        if not taken:
            raise Unavailable("it refuses spans: is this the address of an OTLP receiver?")

    def close(self) -> None:
        """The last that has ended; what cannot be sent within ``LAST_S`` is lost."""
        self._hang_up()  # it may have been left in the middle of a message
        try:
            with gevent.Timeout(LAST_S):
                self.flush()
        except gevent.Timeout:
            pass
        self._hang_up()

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _send(self, body: bytes) -> bool:
        """Whether the store took it; False if it never will. Raises what may pass, ``OSError`` among it."""
        with gevent.Timeout(self._timeout_s):
            connection = self._connection = self._connection or self._connect()
            connection.request("POST", self._path, body, {"content-type": "application/json"})
            response = connection.getresponse()
            if len(response.read(_LONGEST_REPLY)) == _LONGEST_REPLY:
                self._hang_up()
        # OTLP's own list of what may be sent again.
        if response.status in (429, 502, 503, 504):
            raise OSError(f"status {response.status}")
        if not 200 <= response.status < 300:
            self._log.warning("the store of traces refuses them", host=self._host, status=response.status)
        return 200 <= response.status < 300

    def _connect(self) -> HTTPConnection:
        if self._context is not None:
            return HTTPSConnection(self._host, self._port, timeout=self._timeout_s, context=self._context)
        return HTTPConnection(self._host, self._port, timeout=self._timeout_s)


_LONGEST_REPLY = 64 * 1024
_encode = msgspec.json.Encoder().encode


def message(resource: Mapping[str, Any], spans: Iterable[Span]) -> bytes:
    """An ``ExportTraceServiceRequest`` in OTLP's JSON form: ids in hex, 64-bit numbers as text."""
    told = [
        {
            "traceId": it.trace_id,
            "spanId": it.id,
            **({"parentSpanId": it.parent} if it.parent else {}),
            "name": it.name,
            "kind": it.kind,
            "startTimeUnixNano": str(it.start),
            "endTimeUnixNano": str(it.end),
            "attributes": _attributes(it.facts),
            **({"status": {"code": 2}} if it.failed else {}),
        }
        for it in spans
    ]
    scope = {"scope": {"name": "knowalledge"}, "spans": told}
    return _encode({"resourceSpans": [{"resource": resource, "scopeSpans": [scope]}]})


def _attributes(facts: Mapping[str, Fact]) -> list[dict[str, object]]:
    return [{"key": key, "value": _value(value)} for key, value in facts.items()]


def _value(value: Fact) -> dict[str, object]:
    if isinstance(value, str):
        return {"stringValue": value[:LONGEST]}
    if isinstance(value, bool):
        return {"boolValue": value}
    if isinstance(value, int):
        return {"intValue": str(value)}
    if isinstance(value, float):
        return {"doubleValue": value}
    return {"arrayValue": {"values": [{"stringValue": it[:LONGEST]} for it in value[:20]]}}
