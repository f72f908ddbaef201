"""Answers in the form of Gemini's dialect."""

import msgspec
from msgspec import UNSET, Raw

from knowalledge.core.errors import ContentBlocked, InvalidRequest
from knowalledge.gateway.api.gemini import schemas
from knowalledge.gateway.api.parsing import json_object
from knowalledge.gateway.domain.answer import Answer, Completion, Finish, Usage
from knowalledge.gateway.domain.prompt import Text, ToolCall

_FINISH = {
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
    finish, message = _finish_reason(completion)
    content = schemas.AnswerContent(parts or NO_TEXT)
    candidate = schemas.Candidate(content, finish, finish_message=message or UNSET)
    return schemas.GenerateContentAnswer(
        (candidate,),
        completion.model_version or answer.model,
        answer.id,
        usage_metadata(answer.usage),
    )


def blocked_answer(blocked: ContentBlocked, model: str, request_id: str) -> schemas.BlockedAnswer:
    """A blocked prompt is no error at Google: an answer without a candidate that says why."""
    return schemas.BlockedAnswer(schemas.PromptFeedback(blocked.reason or "OTHER"), model, request_id)


def answer_parts(parts: tuple[Text | ToolCall, ...]) -> tuple[schemas.AnswerPart, ...]:
    """Text and calls as parts. A call whose arguments are no JSON object is none: ``_finish_reason`` tells of it."""
    made: list[schemas.AnswerPart] = []
    for part in parts:
        if isinstance(part, Text):
            made.append(schemas.AnswerPart(part.text))
        elif (arguments := _arguments(part)) is not None:
            call = schemas.AskedCall(part.name, Raw(arguments), part.id)
            made.append(schemas.AnswerPart(function_call=call, thought_signature=part.signature or UNSET))
    return tuple(made)


def _arguments(call: ToolCall) -> bytes | None:
    """The arguments as one JSON object without line breaks, which would break an event; None if they are none.

    They are a provider's text: cut, or made to break out of the place that they are put into.
    """
    try:
        text = json_object(call.arguments or "{}", "")
        return msgspec.json.format(text.encode(), indent=-1)
    except (InvalidRequest, UnicodeEncodeError, msgspec.DecodeError):
        return None


def _finish_reason(completion: Completion) -> tuple[str, str]:
    """Google's reason, and a sentence where it alone would not say why."""
    finish = completion.finish
    if finish in (Finish.STOP, Finish.TOOL_CALLS, Finish.OTHER) and None in map(
        _arguments, completion.tool_calls
    ):
        return "MALFORMED_FUNCTION_CALL", "the arguments of a function call are not a JSON object"
    if finish is Finish.OTHER and completion.reason:
        return "OTHER", f"the provider's reason: {completion.reason}"
    return _FINISH[finish], ""


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
