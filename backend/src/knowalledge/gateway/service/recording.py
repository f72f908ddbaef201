"""The one record of each request, for metrics, logs and traces."""

from knowalledge.core.context import RequestContext
from knowalledge.gateway.domain.answer import Usage
from knowalledge.gateway.domain.outcomes import Outcome, outcome_of
from knowalledge.gateway.ports import Record
from knowalledge.quota.domain.queue import QueueOutcome

NO_USAGE = Usage()


def record_of(
    context: RequestContext,
    model: str,
    seconds: float,
    *,
    error: BaseException | None = None,
    outcome: Outcome = Outcome.OK,
    target: str = "",
    usage: Usage = NO_USAGE,
    cache: str = "miss",
    waited_s: float = 0.0,
    queue_outcome: QueueOutcome | None = None,
    first_token_s: float | None = None,
) -> Record:
    """How a request ended after ``seconds``; with an ``error`` its outcome is the error's.

    ``model`` and ``target`` must be names from the configuration, or fixed words: they become metric labels.
    """
    return Record(
        request_id=context.request_id,
        model=model,
        target=target,
        outcome=outcome if error is None else outcome_of(error),
        priority=context.priority,
        seconds=seconds,
        usage=usage,
        cache=cache,
        waited_s=waited_s,
        queue_outcome=queue_outcome,
        first_token_s=first_token_s,
        error="" if error is None else error_code(error),
        trace=context.trace,
    )


def error_code(error: BaseException) -> str:
    """The stable name of an error; the name of its class if it is none of ours."""
    code: str = getattr(error, "code", type(error).__name__)
    return code
