"""The bodies of Gemini's dialect: those of requests, then those of responses.

Source: ai.google.dev/api/generate-content; Vertex AI shares these messages. As in Google's own JSON, names may be
written in camelCase or in snake_case, and unknown fields are ignored; a field that is known and not served is
refused, because leaving it out would change the answer in silence.
"""

import re
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.gemini.fields import REQUEST
from knowalledge.gateway.api.schemas import (
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOOLS,
    Dimensions,
    Fraction,
    JsonObject,
    OutputTokens,
    Penalty,
    Temperature,
)
from knowalledge.web.bodies import decode

T = TypeVar("T", bound=Struct)

# -- requests --------------------------------------------------------------------------------------------------------


class InlineData(Struct, rename="camel"):
    """Media, in base64."""

    data: str
    mime_type: Annotated[str, Meta(pattern=r"^[^/\s]{1,64}/[^/\s]{1,128}$")]


class FileData(Struct, rename="camel"):
    """Media by address; the provider fetches it."""

    file_uri: str
    mime_type: str = ""


class FunctionCallBody(Struct, rename="camel"):
    """A call that the model asked for."""

    name: Annotated[str, Meta(min_length=1)]
    args: JsonObject | UnsetType = UNSET
    id: str | None = None


class FunctionResponseBody(Struct, rename="camel"):
    """What a called function gave back."""

    name: Annotated[str, Meta(min_length=1)]
    response: JsonObject | UnsetType = UNSET
    id: str | None = None


def as_tuple(given: "tuple[T, ...] | T | None") -> tuple[T, ...]:
    """The elements of a repeated field; as in Google's JSON, a single element may stand without its list."""
    if given is None:
        return ()
    return given if isinstance(given, tuple) else (given,)


class PartBody(Struct, rename="camel"):
    """One piece of a turn: exactly one of its kinds."""

    text: str | None = None
    inline_data: InlineData | None = None
    file_data: FileData | None = None
    function_call: FunctionCallBody | None = None
    function_response: FunctionResponseBody | None = None
    thought: bool | None = None
    thought_signature: str | None = None


class ContentBody(Struct, rename="camel"):
    """One turn."""

    parts: Annotated[tuple[PartBody, ...], Meta(max_length=4096)] | PartBody = ()
    role: Literal["user", "model", "function", "tool", "system", ""] | None = None


class FunctionDeclaration(Struct, rename="camel"):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: JsonObject | UnsetType = UNSET
    parameters_json_schema: JsonObject | UnsetType = UNSET


class GoogleTools(Struct, rename="camel"):
    """Functions; what becomes of Google's own tools is in ``fields.py``."""

    function_declarations: Annotated[tuple[FunctionDeclaration, ...], Meta(max_length=MAX_TOOLS)] | None = (
        None
    )


class FunctionCallingConfig(Struct, rename="camel"):
    """Whether functions may or must be called."""

    mode: Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED", 0, 1, 2, 3, 4] | None = None
    allowed_function_names: tuple[str, ...] | None = None


class ToolConfig(Struct, rename="camel"):
    """How tools are used."""

    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(Struct, rename="camel"):
    """How much to think: tokens, or a level."""

    thinking_budget: Annotated[int, Meta(ge=-1, le=65_536)] | None = None
    thinking_level: str | int | None = None


class GenerationConfig(Struct, rename="camel"):
    """How to answer."""

    temperature: Temperature | None = None
    top_p: Fraction | None = None
    top_k: Annotated[float, Meta(ge=1, le=10_000)] | None = None
    candidate_count: int | None = None
    max_output_tokens: OutputTokens | None = None
    stop_sequences: Annotated[tuple[str, ...], Meta(max_length=MAX_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Annotated[int, Meta(ge=-(2**31), le=2**31 - 1)] | None = None  # INT32 at Google
    response_mime_type: str | None = None
    response_schema: JsonObject | UnsetType = UNSET
    response_json_schema: JsonObject | UnsetType = UNSET
    thinking_config: ThinkingConfig | None = None
    response_modalities: tuple[str | int, ...] | None = None
    media_resolution: str | int | None = None


class SafetySetting(Struct, rename="camel"):
    """What to block; passed on."""

    category: Annotated[str, Meta(max_length=100)] | int
    threshold: Annotated[str, Meta(max_length=100)] | int = "HARM_BLOCK_THRESHOLD_UNSPECIFIED"


class GenerateContentBody(Struct, rename="camel"):
    """``:generateContent`` and ``:streamGenerateContent``."""

    contents: Annotated[tuple[ContentBody, ...], Meta(max_length=MAX_MESSAGES)] | ContentBody = ()
    system_instruction: ContentBody | None = None
    generation_config: GenerationConfig | None = None
    tools: Annotated[tuple[GoogleTools, ...], Meta(max_length=MAX_TOOLS)] | GoogleTools | None = None
    tool_config: ToolConfig | None = None
    safety_settings: Annotated[tuple[SafetySetting, ...], Meta(max_length=64)] | SafetySetting | None = None


class CountTokensBody(Struct, rename="camel"):
    """``:countTokens``: contents, or a whole request."""

    contents: Annotated[tuple[ContentBody, ...], Meta(max_length=MAX_MESSAGES)] | ContentBody = ()
    generate_content_request: GenerateContentBody | None = None
    system_instruction: ContentBody | None = None
    tools: Annotated[tuple[GoogleTools, ...], Meta(max_length=MAX_TOOLS)] | GoogleTools | None = None


class EmbedContentConfig(Struct, rename="camel"):
    """How to embed; newer clients say it here."""

    output_dimensionality: Dimensions | None = None


class EmbedContentBody(Struct, rename="camel"):
    """``:embedContent``. The task's type is not passed on."""

    content: ContentBody
    output_dimensionality: Dimensions | None = None
    embed_content_config: EmbedContentConfig | None = None


class BatchEmbedContentsBody(Struct, rename="camel"):
    """``:batchEmbedContents``: all of one size."""

    requests: Annotated[tuple[EmbedContentBody, ...], Meta(min_length=1, max_length=2048)]


class PredictInstance(Struct, rename="camel"):
    """A text to embed."""

    content: str


class PredictParameters(Struct, rename="camel"):
    """How to embed."""

    output_dimensionality: Dimensions | None = None


class PredictBody(Struct, rename="camel"):
    """``:predict``, Vertex AI's older way to embed."""

    instances: Annotated[tuple[PredictInstance, ...], Meta(min_length=1, max_length=2048)]
    parameters: PredictParameters | None = None


BODIES = (GenerateContentBody, CountTokensBody, EmbedContentBody, BatchEmbedContentsBody, PredictBody)

# Fields whose names Google's JSON also takes in snake_case, by that form.
_CAMEL = {
    it.name: it.encode_name
    for kind in (
        *BODIES,
        InlineData,
        FileData,
        PartBody,
        FunctionDeclaration,
        GoogleTools,
        FunctionCallingConfig,
        ToolConfig,
        ThinkingConfig,
        GenerationConfig,
        EmbedContentConfig,
        PredictParameters,
    )
    for it in msgspec.structs.fields(kind)
    if it.name != it.encode_name
} | {
    re.sub("[A-Z]", lambda it: f"_{it[0].lower()}", name): name
    for rule in REQUEST.rules
    for name in re.split(r"[.\[\]]+", rule.path)
    if name and not name.islower()
}
_SNAKE = re.compile(rb'"(?:' + "|".join(_CAMEL).encode() + rb')"\s*:')
# Fields whose inner names are the caller's own and stay as they are.
_OPAQUE = frozenset(
    ("args", "response", "parametersJsonSchema", "responseJsonSchema", "properties", "labels")
)

_encode = msgspec.json.Encoder().encode
_any = msgspec.json.Decoder()
_decoders: dict[type[Any], "msgspec.json.Decoder[Any]"] = {
    kind: msgspec.json.Decoder(kind) for kind in BODIES
}


def read(kind: type[T], body: bytes) -> T:
    """A body as one of ``BODIES``, its names in camelCase or snake_case. Raises ``InvalidRequest``."""
    return read_named(kind, body)[0]


def read_named(kind: type[T], body: bytes) -> tuple[T, bytes]:
    """The same, and the body with its names in camelCase."""
    if _SNAKE.search(body):
        try:
            body = _encode(_camel_case(decode(_any, body)))
        except RecursionError as error:
            raise InvalidRequest("the body is nested too deeply") from error
    body = body or b"{}"
    result: T = decode(_decoders[kind], body)
    return result, body


def _camel_case(value: Any) -> Any:
    if isinstance(value, list):
        return [_camel_case(it) for it in value]
    if not isinstance(value, dict):
        return value
    renamed = {}
    for key, it in value.items():
        name = _CAMEL.get(key, key)
        renamed[name] = it if name in _OPAQUE else _camel_case(it)
    return renamed


# -- responses -----------------------------------------------------------------------------------------------------


class AskedCall(Struct, frozen=True, omit_defaults=True):
    """A function to call."""

    name: str
    args: JsonObject
    id: str = ""


class AnswerPart(Struct, frozen=True, rename="camel"):
    """A piece of the answer."""

    text: str | UnsetType = UNSET
    function_call: AskedCall | UnsetType = UNSET
    thought_signature: str | UnsetType = UNSET


class AnswerContent(Struct, frozen=True):
    """The model's turn."""

    parts: tuple[AnswerPart, ...]
    role: Literal["model"] = "model"


class Candidate(Struct, frozen=True, rename="camel"):
    """The one candidate."""

    content: AnswerContent
    finish_reason: str | UnsetType = UNSET  # STOP, MAX_TOKENS, SAFETY, MALFORMED_FUNCTION_CALL or OTHER
    index: int = 0
    finish_message: str | UnsetType = UNSET


class UsageMetadata(Struct, frozen=True, rename="camel"):
    """Tokens; those of tools come on top of the prompt's, those of a cache are among them."""

    prompt_token_count: int
    candidates_token_count: int
    total_token_count: int
    thoughts_token_count: int | UnsetType = UNSET
    cached_content_token_count: int | UnsetType = UNSET
    tool_use_prompt_token_count: int | UnsetType = UNSET


class GenerateContentAnswer(Struct, frozen=True, rename="camel"):
    """A whole answer, or one event of a stream."""

    candidates: tuple[Candidate, ...]
    model_version: str
    response_id: str
    usage_metadata: UsageMetadata | UnsetType = UNSET


class PromptFeedback(Struct, frozen=True, rename="camel"):
    """Why a prompt was blocked."""

    block_reason: str


class BlockedAnswer(Struct, frozen=True, rename="camel"):
    """The answer to a prompt that the provider blocked: it has no candidate."""

    prompt_feedback: PromptFeedback
    model_version: str
    response_id: str


class TokenCount(Struct, frozen=True, rename="camel"):
    """The tokens of a prompt."""

    total_tokens: int


class Values(Struct, frozen=True):
    """A vector."""

    values: tuple[float, ...]


class Embedded(Struct, frozen=True):
    """The embedding of one content."""

    embedding: Values


class BatchEmbedded(Struct, frozen=True):
    """The embeddings, in the order of the requests."""

    embeddings: tuple[Values, ...]


class Prediction(Struct, frozen=True):
    """The embedding of one instance."""

    embeddings: Values


class Predictions(Struct, frozen=True):
    """The embeddings, in the order of the instances."""

    predictions: tuple[Prediction, ...]


class GoogleModel(Struct, frozen=True, rename="camel"):
    """A model that may be named."""

    name: str
    display_name: str
    version: str = ""
    supported_generation_methods: tuple[str, ...] = (
        "generateContent",
        "streamGenerateContent",
        "countTokens",
        "embedContent",
        "batchEmbedContents",
    )


class GoogleModels(Struct, frozen=True):
    """Every model that may be named."""

    models: tuple[GoogleModel, ...]


class PublisherModels(Struct, frozen=True, rename="camel"):
    """Every model that may be named, as Vertex AI lists them."""

    publisher_models: tuple[GoogleModel, ...]


class Status(Struct, frozen=True):
    """google.rpc.Status."""

    code: int
    message: str
    status: str
    details: tuple[dict[str, Any], ...] = field(default=())


class StatusBody(Struct, frozen=True):
    """A failure in Google's form."""

    error: Status
