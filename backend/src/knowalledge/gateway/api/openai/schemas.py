"""The bodies of OpenAI's dialect: those of requests, then those of responses.

Source: platform.openai.com/docs/api-reference/chat. Unknown fields are ignored, as OpenAI's servers do; a
field that is known and not served is refused, because leaving it out would change the answer in silence.
"""

from typing import Annotated, Literal

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.schemas import (
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOOLS,
    Dimensions,
    Fraction,
    JsonObject,
    ModelName,
    OutputTokens,
    Penalty,
    Seed,
    Temperature,
)
from knowalledge.web.bodies import decode

# -- requests --------------------------------------------------------------------------------------------------------


class TextPart(Struct, tag_field="type", tag="text"):
    """A piece of text."""

    text: str


class RefusalPart(Struct, tag_field="type", tag="refusal"):
    """What the model said when it refused, in a conversation that goes on."""

    refusal: str


class ImageUrl(Struct):
    """``data:`` with base64, or an address that the provider fetches."""

    url: str
    detail: Literal["auto", "low", "high"] | None = None


class ImagePart(Struct, tag_field="type", tag="image_url"):
    """An image."""

    image_url: ImageUrl


class InputAudio(Struct):
    """Sound, in base64."""

    data: str
    format: Literal["wav", "mp3"]


class AudioPart(Struct, tag_field="type", tag="input_audio"):
    """Sound."""

    input_audio: InputAudio


class InputFile(Struct):
    """A document as a ``data:`` address; files by id are not kept here."""

    file_data: str


class FilePart(Struct, tag_field="type", tag="file"):
    """A document."""

    file: InputFile


Texts = str | tuple[TextPart, ...]


class SystemMessage(Struct, tag_field="role", tag="system"):
    """Instructions."""

    content: Texts


class DeveloperMessage(Struct, tag_field="role", tag="developer"):
    """Instructions; the newer name of ``system``."""

    content: Texts


class UserMessage(Struct, tag_field="role", tag="user"):
    """What the user says and shows."""

    content: str | tuple[TextPart | ImagePart | AudioPart | FilePart, ...]


class CalledFunction(Struct):
    """A function's name, and its arguments as JSON text."""

    name: str
    arguments: str = "{}"


class GoogleExtra(Struct, frozen=True):
    """What Gemini wants back with a call; in Google's own OpenAI-compatible answers it has the same place."""

    thought_signature: str = ""


class ExtraContent(Struct, frozen=True):
    """What only one provider knows."""

    google: GoogleExtra | None = None


class CallBody(Struct):
    """A call that the model asked for."""

    function: CalledFunction
    id: str = ""
    type: Literal["function"] = "function"
    extra_content: ExtraContent | None = None


class AssistantMessage(Struct, tag_field="role", tag="assistant"):
    """What the model said earlier."""

    content: str | tuple[TextPart | RefusalPart, ...] | None = None
    tool_calls: tuple[CallBody, ...] | None = None


class ToolMessage(Struct, tag_field="role", tag="tool"):
    """What a called function gave back."""

    tool_call_id: str
    content: Texts


ChatMessage = SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage


class FunctionBody(Struct):
    """A function that the model may call; ``parameters`` is a JSON Schema."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: JsonObject | UnsetType = UNSET


class ToolBody(Struct):
    """A tool; functions are the only kind."""

    function: FunctionBody
    type: Literal["function"] = "function"


class NamedFunction(Struct):
    """A function by name."""

    name: str


class ChosenTool(Struct):
    """The function that must be called."""

    function: NamedFunction
    type: Literal["function"] = "function"


class SchemaBody(Struct):
    """The JSON Schema that the answer must satisfy."""

    schema: JsonObject | UnsetType = UNSET
    name: str = ""


class TextFormat(Struct, tag_field="type", tag="text"):
    """Plain text."""


class ObjectFormat(Struct, tag_field="type", tag="json_object"):
    """Any JSON object."""


class SchemaFormat(Struct, tag_field="type", tag="json_schema"):
    """JSON of a given schema."""

    json_schema: SchemaBody


class StreamOptions(Struct):
    """What a stream tells besides the text."""

    include_usage: bool | None = None


class ChatBody(Struct):
    """``POST /v1/chat/completions``."""

    messages: Annotated[tuple[ChatMessage, ...], Meta(min_length=1, max_length=MAX_MESSAGES)]
    model: ModelName = ""
    max_completion_tokens: OutputTokens | None = None
    max_tokens: OutputTokens | None = None
    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[int, Meta(ge=-1, le=10_000)] | None = None
    n: int | None = None
    seed: Seed | None = None
    stop: str | Annotated[tuple[str, ...], Meta(max_length=MAX_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    response_format: TextFormat | ObjectFormat | SchemaFormat | None = None
    tools: Annotated[tuple[ToolBody, ...], Meta(max_length=MAX_TOOLS)] | None = None
    tool_choice: Literal["none", "auto", "required"] | ChosenTool | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None


class EmbeddingsBody(Struct):
    """``POST /v1/embeddings``."""

    input: str | Annotated[tuple[str | int | tuple[int, ...], ...], Meta(min_length=1, max_length=2048)]
    model: ModelName = ""
    encoding_format: Literal["float", "base64"] | None = None  # None: float
    dimensions: Dimensions | None = None


_chat = msgspec.json.Decoder(ChatBody)
_embeddings = msgspec.json.Decoder(EmbeddingsBody)


def read_chat(body: bytes) -> ChatBody:
    """Raises ``InvalidRequest``."""
    chat: ChatBody = decode(_chat, body)
    return chat


def names_unknown_kind(error: InvalidRequest) -> bool:
    """Whether a body was refused only for a word that is not among those known here; roles but one are all known."""
    said = str(error.__cause__)  # the decoder's own, which names the word
    unknown = said.startswith(("Invalid value ", "Invalid enum value "))
    return unknown and (not error.param.endswith(".role") or "'function'" in said)


def read_embeddings(body: bytes) -> EmbeddingsBody:
    """Raises ``InvalidRequest``."""
    embeddings: EmbeddingsBody = decode(_embeddings, body)
    return embeddings


# -- responses -----------------------------------------------------------------------------------------------------

# stop, length, tool_calls or content_filter; for what OpenAI has no word, the provider's in small letters.
FinishReason = str


class FunctionCall(Struct, frozen=True):
    """A function to call, its arguments as JSON text."""

    name: str
    arguments: str


class Call(Struct, frozen=True):
    """A call that the model asks for."""

    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    extra_content: ExtraContent | UnsetType = UNSET


class PieceOfCall(Struct, frozen=True):
    """A call in a stream; calls come whole."""

    index: int
    id: str
    function: FunctionCall
    type: Literal["function"] = "function"
    extra_content: ExtraContent | UnsetType = UNSET


class Said(Struct, frozen=True):
    """The model's message."""

    content: str | None
    tool_calls: tuple[Call, ...] | UnsetType = UNSET
    role: Literal["assistant"] = "assistant"
    refusal: None = None


class Choice(Struct, frozen=True):
    """The one choice."""

    message: Said
    finish_reason: FinishReason
    index: int = 0
    logprobs: None = None


class PromptDetails(Struct, frozen=True):
    """Of the input."""

    cached_tokens: int


class CompletionDetails(Struct, frozen=True):
    """Of the output."""

    reasoning_tokens: int


class ChatUsage(Struct, frozen=True):
    """Tokens; those of reasoning are part of the completion's."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int
    prompt_tokens_details: PromptDetails
    completion_tokens_details: CompletionDetails


class ChatCompletion(Struct, frozen=True):
    """A whole answer."""

    id: str
    created: int
    model: str
    choices: tuple[Choice]
    usage: ChatUsage
    object: Literal["chat.completion"] = "chat.completion"


class DeltaBody(Struct, frozen=True, omit_defaults=True):
    """What is new."""

    role: Literal["assistant"] | UnsetType = UNSET
    content: str | UnsetType = UNSET
    tool_calls: tuple[PieceOfCall, ...] | UnsetType = UNSET


class ChunkChoice(Struct, frozen=True):
    """The one choice, so far."""

    delta: DeltaBody
    finish_reason: FinishReason | None = None
    index: int = 0
    logprobs: None = None


class ChatChunk(Struct, frozen=True):
    """One event of a stream."""

    id: str
    created: int
    model: str
    choices: tuple[ChunkChoice, ...]
    usage: ChatUsage | UnsetType | None = UNSET
    object: Literal["chat.completion.chunk"] = "chat.completion.chunk"


class Vector(Struct, frozen=True):
    """One text's embedding: numbers, or the base64 of little-endian 32-bit floats."""

    index: int
    embedding: tuple[float, ...] | str
    object: Literal["embedding"] = "embedding"


class EmbeddingUsage(Struct, frozen=True):
    """Tokens."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingList(Struct, frozen=True):
    """The embeddings, in the order of the input."""

    data: tuple[Vector, ...]
    model: str
    usage: EmbeddingUsage
    object: Literal["list"] = "list"


class ModelCard(Struct, frozen=True):
    """A model that may be named."""

    id: str
    created: int
    object: Literal["model"] = "model"
    owned_by: str = "knowalledge"


class ModelCards(Struct, frozen=True):
    """Every model that may be named."""

    data: tuple[ModelCard, ...]
    object: Literal["list"] = "list"


class Fault(Struct, frozen=True):
    """What went wrong."""

    message: str
    type: str
    code: str
    request_id: str
    param: str | None = None


class FaultBody(Struct, frozen=True):
    """A failure in OpenAI's form."""

    error: Fault
