"""Structured logs: one JSON object a line on standard error. Never a prompt, an answer or a secret."""

import logging
import sys
from typing import Any

import msgspec
import structlog

from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.ports import Record, Telemetry
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.window import TokenCost

_encode = msgspec.json.Encoder().encode


def _render(_: Any, __: str, event: Any) -> bytes:
    return _encode(event)


def configure(level: str) -> None:
    """Set up structlog once per process."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            _render,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )


def audit(event: str, fields: dict[str, object]) -> None:
    """One line for what an operator did."""
    structlog.get_logger().warning(event, audit=True, **fields)


class LoggedTelemetry:
    """A ``Telemetry`` that also tells the trace, and writes one line a request: failures always, the rest at debug."""

    def __init__(self, inner: Telemetry) -> None:
        self._inner = inner
        self._log = structlog.get_logger()
        self._uncounted: set[str] = set()

    def request(self, record: Record) -> None:
        self._inner.request(record)
        record.trace.told(record)
        quiet = record.outcome in _QUIET
        if quiet and not self._log.is_enabled_for(logging.DEBUG):
            return  # what nobody reads costs as much as what somebody does
        say = self._log.debug if quiet else self._log.info
        say(
            "request",
            request_id=record.request_id,
            model=record.model,
            target=record.target,
            outcome=record.outcome,
            priority=record.priority.label,
            seconds=round(record.seconds, 4),
            waited_s=round(record.waited_s, 4),
            input_tokens=record.usage.input,
            output_tokens=record.usage.generated,
            error=record.error,
            **({"trace_id": record.trace.id} if record.trace.live else {}),
        )

    def upstream(self, target: str, outcome: Outcome, seconds: float) -> None:
        self._inner.upstream(target, outcome, seconds)

    def refused(self, target: str, reason: RefusalReason) -> None:
        self._inner.refused(target, reason)

    def settled(self, target: str, estimate: TokenCost, true: TokenCost) -> None:
        self._inner.settled(target, estimate, true)

    def uncounted(self, target: str) -> None:
        """Written once a target: one that does not count says so with every answer."""
        self._inner.uncounted(target)
        if target not in self._uncounted:
            self._uncounted.add(target)
            self._log.warning("an answer came without a believable count of its tokens", target=target)


_QUIET = frozenset((Outcome.OK, Outcome.CACHED, Outcome.SHARED))
