"""Every span and attribute, once. ``otlp.py`` sends them.

Attributes are those of OpenTelemetry's semantic conventions (http, gen_ai, error) where they have one, else
``knowalledge.*``. A request that is not traced makes no object here, and none of OpenTelemetry's SDK: docs/adr/0011.
"""

from collections.abc import Callable, Mapping
from random import getrandbits
from types import SimpleNamespace
from typing import ClassVar

from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.trace_context import RATIO_BITS, Attributes, Parent, is_sampled, parent_of

# Callers may ask for their requests to be traced; of those who do, this many a second are, the rest by chance.
ASKED_A_SECOND = 50
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
INTERNAL, SERVER, CLIENT = 1, 2, 3  # kinds of spans, in OTLP's numbers


class Span(Struct, frozen=True):
    """A step that is over; times in nanoseconds since the epoch."""

    trace_id: str
    id: str
    parent: str  # empty: none
    name: str
    kind: int
    start: int
    end: int
    attributes: Attributes
    failed: bool = False

    # What OpenTelemetry's batch processor asks of a span: here only sampled ones exist.
    context: ClassVar = SimpleNamespace(trace_flags=SimpleNamespace(sampled=True))


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
            drawn = getrandbits(RATIO_BITS)  # first, for most requests end here
            if not is_sampled(drawn, self._share):
                return None
            trace_id = f"{getrandbits(128 - RATIO_BITS) << RATIO_BITS | drawn:032x}"
        elif not parent.sampled or not (self._may_ask() or is_sampled(getrandbits(RATIO_BITS), self._share)):
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
        "_described",
        "_epoch",
        "_error",
        "_export",
        "_failed",
        "_id",
        "_method",
        "_over",
        "_parent",
        "_route",
        "_status",
        "_targets",
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
        self._id = _span_id()
        self._parent = parent.span_id if parent else ""
        self._method = method if method in _METHODS else "_OTHER"
        self._clock, self._targets, self._export = clock, targets, export
        self._begun = clock.monotonic()
        self._epoch = clock.now() - self._begun
        self._route, self._status = "", 0
        self._answer: Attributes = {}
        self._described: Attributes = {}
        self._error, self._failed = "", False
        self._over = False

    def add_step(self, name: str, began: float, attributes: Attributes, error: str = "") -> None:
        self._add(name, INTERNAL, began, attributes, error)

    def add_call(self, name: str, began: float, target: str, attributes: Attributes, error: str = "") -> None:
        info = self._targets.get(target)
        if info is not None:
            attributes["gen_ai.provider.name"] = info.provider
            attributes["gen_ai.request.model"] = info.model
        self._add(name, CLIENT, began, attributes, error)

    def describe(self, attributes: Attributes, error: str, failed: bool) -> None:
        self._described, self._error, self._failed = attributes, error, failed

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
        attributes = self._answer | self._described
        failed = bool(error) or self._failed or self._status >= 500
        error = self._error or error
        if error or failed:
            attributes["error.type"] = error or str(self._status)
        name = f"{self._method} {self._route}".rstrip()
        self._put(self._id, self._parent, name, SERVER, self._begun, attributes, failed)

    def _add(self, name: str, kind: int, began: float, attributes: Attributes, error: str) -> None:
        if error:
            attributes["error.type"] = error
        self._put(_span_id(), self._id, name, kind, began, attributes, bool(error))

    def _put(
        self, span: str, parent: str, name: str, kind: int, began: float, attributes: Attributes, failed: bool
    ) -> None:
        start, end = self._at(began), self._at(self._clock.monotonic())
        self._export(Span(self.id, span, parent, name, kind, start, max(start, end), attributes, failed))

    def _at(self, moment: float) -> int:
        return int((self._epoch + moment) * 1e9)


def _span_id() -> str:
    return f"{getrandbits(64):016x}"
