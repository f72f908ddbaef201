"""A whole answer in the form of the native API."""

from msgspec import UNSET, UnsetType

from knowalledge.gateway.api.native import schemas
from knowalledge.gateway.domain.answer import Answer


def answer_body(answer: Answer, text: str | UnsetType = UNSET) -> schemas.GenerateAnswer:
    """A whole answer; without ``text`` it is the last event of a stream."""
    usage = answer.usage
    return schemas.GenerateAnswer(
        answer.id,
        answer.model,
        answer.target,
        answer.completion.finish,
        schemas.UsageBody(usage.input, usage.output, usage.total, usage.cached, usage.thinking),
        answer.cache,
        answer.queue,
        answer.degraded,
        answer.reason,
        text,
    )
