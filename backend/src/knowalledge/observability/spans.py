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
from knowalledge.core.context import Priority
from knowalledge.core.trace_context import Parent, is_sampled, parent_of
from knowalledge.gateway.domain.answer import Finish, Usage
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.ports import Record
from knowalledge.quota.domain.window import TokenCost

Fact = str | int | float | bool | tuple[str, ...]
Attributes = dict[str, Fact]

# Callers may ask for their requests to be traced; of those who do, this many a second are, the rest by chance.
ASKED_A_SECOND = 50
_METHODS = frozenset(("GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"))
INTERNAL, SERVER, CLIENT = 1, 2, 3  # kinds of spans, in OTLP's numbers
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
            drawn = getrandbits(128)
            if not is_sampled(drawn, self._share):
                return None
            trace_id = f"{drawn:032x}"
        elif not parent.sampled or not (self._may_ask() or is_sampled(getrandbits(128), self._share)):
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
        self._id = _span_id()
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
        self._step("provider", began, facts, CLIENT, error)

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
        self._put(self._id, self._parent, name, SERVER, self._begun, facts, failed)

    def _step(
        self, name: str, began: float, facts: Attributes, kind: int = INTERNAL, error: str = ""
    ) -> None:
        if error:
            facts["error.type"] = error
        self._put(_span_id(), self._id, name, kind, began, facts, bool(error))

    def _put(
        self, span: str, parent: str, name: str, kind: int, began: float, facts: Attributes, failed: bool
    ) -> None:
        start, end = self._at(began), self._at(self._clock.monotonic())
        self._export(Span(self.id, span, parent, name, kind, start, max(start, end), facts, failed))

    def _at(self, moment: float) -> int:
        return int((self._epoch + moment) * 1e9)


def _span_id() -> str:
    return f"{getrandbits(64):016x}"
