"""The steps of an execution in its request's trace: attributes are made only where the trace is live.

Names are those of OpenTelemetry's semantic conventions (gen_ai) where they have one, else ``knowalledge.*``.
"""

from collections.abc import Iterable
from typing import Literal

from knowalledge.core.context import Priority
from knowalledge.core.trace_context import Attributes, Trace
from knowalledge.gateway.domain.answer import Completion, Usage
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.service.dispatcher import ProviderCall
from knowalledge.quota.domain.window import TokenCost


def trace_wait(
    trace: Trace,
    began: float,
    call: ProviderCall | None,
    priority: Priority,
    position: int,
    waited_s: float,
    refused: Iterable[str],
    error: str,
) -> None:
    """The way to a grant: ``refused`` are the targets without quota, each with the reason; ``call`` is None if there
    was no grant, with the ``error`` that ended it."""
    attributes: Attributes = {
        "knowalledge.priority": priority.label,
        "knowalledge.queue.position": position,
        "knowalledge.queue.waited_s": round(waited_s, 6),
    }
    if call is not None:
        attributes["knowalledge.target"] = call.target.name
        if call.granted.degraded:
            attributes["knowalledge.quota.degraded"] = True
    passed = tuple(refused)
    if passed:
        attributes["knowalledge.targets.passed"] = passed
    trace.add_step("queue", began, attributes, error)


def trace_attempt(
    trace: Trace,
    call: ProviderCall,
    retry: int,
    outcome: Outcome,
    operation: str,
    usage: Usage | None,
    first_token_at: float,
    completion: Completion | None,
    quota_id: str,
    error: str,
) -> None:
    """A call of a provider. ``retry`` is 0 for the first one; ``first_token_at`` is monotonic, 0 if there was none;
    ``quota_id`` is what a 429 named."""
    attributes: Attributes = {
        "knowalledge.target": call.target.name,
        "knowalledge.target.tier": call.target.tier,
        "knowalledge.target.reason": call.reason,
        "knowalledge.retry": retry,
        "knowalledge.outcome": outcome,
        "gen_ai.operation.name": operation,
    }
    if completion is not None:
        if completion.model_version:
            attributes["gen_ai.response.model"] = completion.model_version
        attributes["gen_ai.response.finish_reasons"] = (completion.finish.value,)
    if first_token_at:
        attributes["gen_ai.response.time_to_first_chunk"] = round(first_token_at - call.began, 6)
    if usage is not None:
        attributes["gen_ai.usage.input_tokens"] = usage.input
        attributes["gen_ai.usage.output_tokens"] = usage.generated
        if usage.thinking:
            attributes["gen_ai.usage.reasoning.output_tokens"] = usage.thinking
        if usage.cached:
            attributes["gen_ai.usage.cache_read.input_tokens"] = usage.cached
    if quota_id:
        attributes["knowalledge.quota.id"] = quota_id
    trace.add_call("provider", call.began, call.target.name, attributes, error)


def trace_settlement(
    trace: Trace,
    began: float,
    call: ProviderCall,
    ending: Literal["settled", "released", "refused"],
    actual: TokenCost | None = None,
) -> None:
    """The end of a reservation, and what was charged for it if it was settled."""
    attributes: Attributes = {
        "knowalledge.target": call.target.name,
        "knowalledge.settle.ending": ending,
        "knowalledge.estimate.input_tokens": call.estimate.cost.input,
        "knowalledge.estimate.output_tokens": call.estimate.cost.output,
    }
    if actual is not None:
        attributes["knowalledge.charged.input_tokens"] = actual.input
        attributes["knowalledge.charged.output_tokens"] = actual.output
    trace.add_step("settle", began, attributes)
