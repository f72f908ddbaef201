"""Metrics of requests to models, and their line in the log."""

import logging

import structlog

from knowalledge.core.metrics import Metric, Metrics
from knowalledge.core.trace_context import Attributes
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.ports import Record
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.window import TokenCost

REQUESTS = Metric(
    "knowalledge_requests_total",
    "counter",
    ("model", "outcome", "priority"),
    "Requests, by outcome.",
)
SECONDS = Metric(
    "knowalledge_request_seconds",
    "histogram",
    ("model",),
    "Time from the arrival of a request to its end, in seconds.",
)
FIRST_TOKEN = Metric(
    "knowalledge_first_token_seconds",
    "histogram",
    ("model",),
    "Time from the arrival of a streamed request to its first token, in seconds.",
)
UPSTREAM_CALLS = Metric(
    "knowalledge_upstream_calls_total",
    "counter",
    ("target", "outcome"),
    "Calls to providers, by outcome.",
)
UPSTREAM_SECONDS = Metric(
    "knowalledge_upstream_seconds",
    "histogram",
    ("target",),
    "Time that a call to a provider took, in seconds.",
)
TOKENS = Metric(
    "knowalledge_tokens_total", "counter", ("model", "kind"), "Tokens, as the provider counted them."
)
REFUSED = Metric(
    "knowalledge_quota_refused_total",
    "counter",
    ("target", "reason"),
    "Requests that a target's quota neither granted nor queued.",
)
SETTLED = Metric(
    "knowalledge_quota_settled_total",
    "counter",
    ("target",),
    "Reservations that were settled with the actual usage.",
)
ESTIMATE_ERROR = Metric(
    "knowalledge_estimate_error_tokens_total",
    "counter",
    ("target", "kind", "direction"),
    "Tokens by which estimates were above or below the actual usage.",
)
UNCOUNTED = Metric(
    "knowalledge_uncounted_answers_total",
    "counter",
    ("target",),
    "Answers without a plausible token count from the provider, so that the estimate was charged.",
)
QUEUE_WAIT = Metric(
    "knowalledge_queue_wait_seconds",
    "histogram",
    ("priority",),
    "Time in the queue, of requests that were queued, in seconds.",
)
QUEUE_LEFT = Metric(
    "knowalledge_queue_left_total",
    "counter",
    ("priority", "ending"),
    "Requests that left the queue, by outcome.",
)

# Outcomes that are neither our fault nor a provider's.
_NO_FAULT = frozenset((Outcome.INVALID, Outcome.BLOCKED, Outcome.REFUSED, Outcome.CLIENT_GONE, Outcome.OK))
# Outcomes that are logged at debug; all others at info.
_QUIET = frozenset((Outcome.OK, Outcome.CACHED, Outcome.SHARED))


class GatewayTelemetry:
    """Implements ``Telemetry``: counts, ends the request's trace, and logs one line a request.

    The log has neither prompts nor answers.
    """

    def __init__(self, metrics: Metrics) -> None:
        family = metrics.family
        self._requests, self._seconds, self._first_token = (
            family(REQUESTS),
            family(SECONDS),
            family(FIRST_TOKEN),
        )
        self._upstream_calls, self._upstream_seconds = family(UPSTREAM_CALLS), family(UPSTREAM_SECONDS)
        self._tokens = family(TOKENS)
        self._refused, self._settled = family(REFUSED), family(SETTLED)
        self._estimate_error, self._uncounted = family(ESTIMATE_ERROR), family(UNCOUNTED)
        self._queue_wait, self._queue_left = family(QUEUE_WAIT), family(QUEUE_LEFT)
        self._log = structlog.get_logger()
        self._warned: set[str] = set()  # targets whose missing counts are in the log

    def record_request(self, record: Record) -> None:
        model, level = record.model, record.priority.label
        self._requests[model, record.outcome, level].inc()
        self._seconds[model].observe(record.seconds)
        if record.first_token_s is not None:
            self._first_token[model].observe(record.first_token_s)
        if record.queue_outcome is not None:
            self._queue_left[level, record.queue_outcome].inc()
            self._queue_wait[level].observe(record.waited_s)
        usage = record.usage
        for kind, tokens in (("input", usage.input), ("output", usage.output), ("thinking", usage.thinking)):
            if tokens:
                self._tokens[model, kind].inc(tokens)
        if record.trace.live:
            failed = bool(record.error and record.outcome not in _NO_FAULT)
            record.trace.describe(_attributes(record), record.error, failed)
        self._write(record)

    def _write(self, record: Record) -> None:
        quiet = record.outcome in _QUIET
        if quiet and not self._log.is_enabled_for(logging.DEBUG):
            return  # a line that is not written costs as much as one that is
        write = self._log.debug if quiet else self._log.info
        write(
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

    def record_attempt(self, target: str, outcome: Outcome, seconds: float) -> None:
        self._upstream_calls[target, outcome].inc()
        self._upstream_seconds[target].observe(seconds)

    def record_refusal(self, target: str, reason: RefusalReason) -> None:
        self._refused[target, reason].inc()

    def record_settlement(self, target: str, estimate: TokenCost, actual: TokenCost) -> None:
        self._settled[target].inc()
        for kind, excess in (
            ("input", estimate.input - actual.input),
            ("output", estimate.output - actual.output),
        ):
            if excess:
                self._estimate_error[target, kind, "over" if excess > 0 else "under"].inc(abs(excess))

    def record_uncounted(self, target: str) -> None:
        """Logged once per target: a provider that does not count does so in every answer."""
        self._uncounted[target].inc()
        if target not in self._warned:
            self._warned.add(target)
            self._log.warning("an answer came without a believable count of its tokens", target=target)


def _attributes(record: Record) -> Attributes:
    """What a request's trace says of its end."""
    attributes: Attributes = {
        "gen_ai.request.model": record.model,
        "knowalledge.outcome": record.outcome,
        "knowalledge.priority": record.priority.label,
        "knowalledge.cache.status": record.cache,
    }
    if record.target:
        attributes["knowalledge.target"] = record.target
    return attributes
