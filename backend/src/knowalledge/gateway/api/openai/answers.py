"""Answers in the form of OpenAI's dialect."""

import sys
from array import array
from base64 import b64encode

from msgspec import UNSET, UnsetType

from knowalledge.gateway.api.openai import schemas
from knowalledge.gateway.domain.answer import Answer, Embeddings, Finish, Usage
from knowalledge.gateway.domain.prompt import ToolCall

_FINISH = {
    Finish.STOP: "stop",
    Finish.LENGTH: "length",
    Finish.TOOL_CALLS: "tool_calls",
    Finish.SAFETY: "content_filter",
}


def chat_completion(answer: Answer, created: int) -> schemas.ChatCompletion:
    """A whole answer. ``created`` is in seconds since the epoch."""
    calls = tuple(
        schemas.Call(
            call_id(call, answer.id, index),
            schemas.FunctionCall(call.name, call.arguments),
            extra_content=extra_content(call),
        )
        for index, call in enumerate(answer.completion.tool_calls)
    )
    text = answer.completion.text
    message = schemas.Said(None if calls and not text else text, calls or UNSET)
    return schemas.ChatCompletion(
        completion_id(answer.id),
        created,
        answer.model,
        (schemas.Choice(message, finish_reason(answer)),),
        chat_usage(answer.usage),
    )


def embedding_list(embeddings: Embeddings, model: str, as_base64: bool) -> schemas.EmbeddingList:
    """Embeddings, as numbers or as base64."""
    tokens = embeddings.usage.input if embeddings.usage else 0
    vectors = tuple(
        schemas.Vector(index, base64_floats(it) if as_base64 else it)
        for index, it in enumerate(embeddings.vectors)
    )
    return schemas.EmbeddingList(vectors, model, schemas.EmbeddingUsage(tokens, tokens))


def base64_floats(vector: tuple[float, ...]) -> str:
    """A vector as the base64 of little-endian 32-bit floats."""
    floats = array("f", vector)
    if sys.byteorder == "big":
        floats.byteswap()
    return b64encode(floats.tobytes()).decode()


def model_card(name: str) -> schemas.ModelCard:
    """A model. No provider tells since when it serves one, so ``created`` is 0."""
    return schemas.ModelCard(name, created=0)


def completion_id(request_id: str) -> str:
    """The id of a whole answer and of every chunk of a streamed one."""
    return f"chatcmpl-{request_id}"


def call_id(call: ToolCall, request_id: str, index: int) -> str:
    """The provider's id, else one that no other call of the conversation has."""
    return call.id or f"call_{request_id}_{index}"


def extra_content(call: ToolCall) -> schemas.ExtraContent | UnsetType:
    """Gemini's thought signature, where its own OpenAI-compatible API has it."""
    return schemas.ExtraContent(schemas.GoogleExtra(call.signature)) if call.signature else UNSET


def finish_reason(answer: Answer) -> str:
    """Why the model stopped. What this dialect has no word for has the provider's, in small letters: never ``stop``."""
    completion = answer.completion
    if completion.finish is Finish.STOP and completion.tool_calls:
        return "tool_calls"
    return _FINISH.get(completion.finish) or completion.reason.lower() or "other"


def chat_usage(usage: Usage) -> schemas.ChatUsage:
    """Tokens in OpenAI's sums: those of thinking are part of the completion's."""
    return schemas.ChatUsage(
        usage.input,
        usage.generated,
        usage.total,
        schemas.PromptDetails(usage.cached),
        schemas.CompletionDetails(usage.thinking),
    )
