"""Answers in the form of Gemini's dialect."""

from typing import Any

from msgspec import UNSET, Raw

from knowalledge.gateway.api.gemini import schemas
from knowalledge.gateway.domain.answer import Answer, Finish, Usage
from knowalledge.gateway.domain.prompt import Text, ToolCall

_FINISH: dict[Finish, Any] = {
    Finish.STOP: "STOP",
    Finish.LENGTH: "MAX_TOKENS",
    Finish.TOOL_CALLS: "STOP",
    Finish.SAFETY: "SAFETY",
    Finish.OTHER: "OTHER",
}
# A candidate has at least one part.
NO_TEXT = (schemas.AnswerPart(""),)


def content_answer(answer: Answer, parts: tuple[schemas.AnswerPart, ...]) -> schemas.GenerateContentAnswer:
    """A whole answer, or the last event of a stream, with these parts of it."""
    completion = answer.completion
    candidate = schemas.Candidate(schemas.AnswerContent(parts), _FINISH[completion.finish])
    return schemas.GenerateContentAnswer(
        (candidate,),
        completion.model_version or answer.model,
        answer.id,
        usage_metadata(answer.usage),
    )


def answer_parts(parts: tuple[Text | ToolCall, ...]) -> tuple[schemas.AnswerPart, ...]:
    """Text and calls as parts."""
    return tuple(
        schemas.AnswerPart(part.text)
        if isinstance(part, Text)
        else schemas.AnswerPart(
            function_call=schemas.AskedCall(part.name, Raw(part.arguments.encode() or b"{}"), part.id),
            thought_signature=part.signature or UNSET,
        )
        for part in parts
    )


def usage_metadata(usage: Usage) -> schemas.UsageMetadata:
    """Tokens in Google's sums: those of tools and of thinking stand beside the others."""
    return schemas.UsageMetadata(
        usage.input - usage.tool,
        usage.output,
        usage.total,
        usage.thinking or UNSET,
        usage.cached or UNSET,
        usage.tool or UNSET,
    )
