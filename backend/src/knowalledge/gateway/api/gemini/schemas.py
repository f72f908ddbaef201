"""The bodies of Gemini's dialect: what is asked, as values of ours; what is answered, as its clients read it.

Source: ai.google.dev/api/generate-content; Vertex AI shares these messages. As in Google's own JSON, names may be
written in camelCase or in snake_case, and unknown fields are tolerated; a field that we know and cannot serve is
refused, because leaving it out would change the answer in silence.
"""

import re
from collections.abc import Iterable
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct, UnsetType, field

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.gemini.json_schema import json_schema
from knowalledge.gateway.api.schemas import (
    MAX_MESSAGES,
    MAX_STOPS,
    MAX_TOOLS,
    THINKING,
    Carried,
    Dimensions,
    Output,
    Penalty,
    Seed,
    Share,
    Temperature,
    base64_bytes,
    carried,
    reference,
    with_question,
)
from knowalledge.gateway.domain.prompt import Blob, Message, Part, Prompt, Text, Tool, ToolCall, ToolResult
from knowalledge.web.bodies import decode

T = TypeVar("T", bound=Struct)

# -- asked -----------------------------------------------------------------------------------------------------------


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
    args: Carried | UnsetType = UNSET
    id: str | None = None


class FunctionResponseBody(Struct, rename="camel"):
    """What a called function gave back."""

    name: Annotated[str, Meta(min_length=1)]
    response: Carried | UnsetType = UNSET
    id: str | None = None


def many(given: "tuple[T, ...] | T | None") -> tuple[T, ...]:
    """A list; as in Google's own JSON, one alone may stand for a list of one."""
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

    def to_part(self, where: str) -> Part:
        """The piece as a value. Raises ``InvalidRequest`` for kinds that we do not carry."""
        if self.text is not None:
            return Text(self.text)
        if (data := self.inline_data) is not None:
            return Blob(data.mime_type, base64_bytes(data.data, where))
        if (file := self.file_data) is not None:
            return reference(file.file_uri, file.mime_type, where)
        if (call := self.function_call) is not None:
            arguments = carried(call.args, f"{where}.functionCall.args") or "{}"
            return ToolCall(call.name, arguments, call.id or "", self.thought_signature or "")
        if (result := self.function_response) is not None:
            content = carried(result.response, f"{where}.functionResponse.response") or "{}"
            return ToolResult(result.name, content, result.id or "")
        raise InvalidRequest(
            "a part is text, inlineData, fileData, functionCall or functionResponse", param=where
        )


class ContentBody(Struct, rename="camel"):
    """One turn."""

    parts: Annotated[tuple[PartBody, ...], Meta(max_length=4096)] | PartBody = ()
    role: Literal["user", "model", "function", "tool", "system", ""] | None = None

    def text(self, where: str) -> str:
        """Turns that are text only: instructions, and what is to be embedded."""
        found = []
        for part in many(self.parts):
            if part.text is None:
                raise InvalidRequest("only text is taken here", param=where)
            found.append(part.text)
        return "".join(found)


class FunctionDeclaration(Struct, rename="camel"):
    """A function that the model may call."""

    name: Annotated[str, Meta(min_length=1, max_length=128)]
    description: str | None = None
    parameters: Carried | UnsetType = UNSET
    parameters_json_schema: Carried | UnsetType = UNSET

    def to_tool(self, where: str) -> Tool:
        schema = carried(self.parameters_json_schema, where)
        schema = schema or json_schema(carried(self.parameters, where), where)
        return Tool(self.name, self.description or "", schema)


class GoogleTools(Struct, rename="camel"):
    """Functions; Google's own tools are not served."""

    function_declarations: Annotated[tuple[FunctionDeclaration, ...], Meta(max_length=MAX_TOOLS)] | None = (
        None
    )
    google_search: Any = None
    google_search_retrieval: Any = None
    google_maps: Any = None
    code_execution: Any = None
    url_context: Any = None
    computer_use: Any = None
    file_search: Any = None
    retrieval: Any = None
    enterprise_web_search: Any = None


class FunctionCallingConfig(Struct, rename="camel"):
    """Whether functions may or must be called."""

    mode: Literal["MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED"] | None = None
    allowed_function_names: tuple[str, ...] | None = None


class ToolConfig(Struct, rename="camel"):
    """How tools are used."""

    function_calling_config: FunctionCallingConfig | None = None


class ThinkingConfig(Struct, rename="camel"):
    """How much to think: tokens, or a level."""

    thinking_budget: Annotated[int, Meta(ge=-1, le=65_536)] | None = None
    thinking_level: str | None = None


class GenerationConfig(Struct, rename="camel"):
    """How to answer."""

    temperature: Temperature | None = None
    top_p: Share | None = None
    top_k: Annotated[float, Meta(ge=1, le=10_000)] | None = None
    candidate_count: int | None = None
    max_output_tokens: Output | None = None
    stop_sequences: Annotated[tuple[str, ...], Meta(max_length=MAX_STOPS)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    seed: Seed | None = None
    response_mime_type: str | None = None
    response_schema: Carried | UnsetType = UNSET
    response_json_schema: Carried | UnsetType = UNSET
    thinking_config: ThinkingConfig | None = None
    response_modalities: tuple[str, ...] | None = None
    response_logprobs: bool | None = None
    speech_config: Any = None
    image_config: Any = None


class SafetySetting(Struct, rename="camel"):
    """What to block; passed on."""

    category: Annotated[str, Meta(max_length=100)]
    threshold: Annotated[str, Meta(max_length=100)] = "HARM_BLOCK_THRESHOLD_UNSPECIFIED"


class GenerateContentBody(Struct, rename="camel"):
    """``:generateContent`` and ``:streamGenerateContent``."""

    contents: Annotated[tuple[ContentBody, ...], Meta(max_length=MAX_MESSAGES)] | ContentBody = ()
    system_instruction: ContentBody | None = None
    generation_config: GenerationConfig | None = None
    tools: Annotated[tuple[GoogleTools, ...], Meta(max_length=MAX_TOOLS)] | GoogleTools | None = None
    tool_config: ToolConfig | None = None
    safety_settings: Annotated[tuple[SafetySetting, ...], Meta(max_length=64)] | SafetySetting | None = None
    cached_content: str | None = None

    def to_prompt(self) -> Prompt:
        """The question as a frozen value. Raises ``InvalidRequest`` for what cannot be served."""
        if self.cached_content:
            raise InvalidRequest("cached contents are not kept here", param="cachedContent")
        config = self.generation_config or GenerationConfig()
        _refuse(config)
        system = self.system_instruction
        safety = many(self.safety_settings)
        tools, choice = _tools(many(self.tools), self.tool_config)
        where = "generationConfig.responseJsonSchema"
        schema = carried(config.response_json_schema, where) or json_schema(
            carried(config.response_schema, "generationConfig.responseSchema"),
            "generationConfig.responseSchema",
        )
        return Prompt(
            with_question(_turns(many(self.contents)), "contents"),
            system=system.text("systemInstruction") if system else "",
            max_output_tokens=config.max_output_tokens,
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=None if config.top_k is None else int(config.top_k),
            seed=config.seed,
            stop=config.stop_sequences or (),
            presence_penalty=config.presence_penalty,
            frequency_penalty=config.frequency_penalty,
            json=bool(schema) or config.response_mime_type == "application/json",
            json_schema=schema,
            tools=tools,
            tool_choice=choice,
            thinking_budget=_thinking(config.thinking_config),
            safety=_encode(safety).decode() if safety else "",
        )


_encode = msgspec.json.Encoder().encode


def _refuse(config: GenerationConfig) -> None:
    at = "generationConfig."
    if config.candidate_count not in (None, 1):
        raise InvalidRequest("one candidate a request: ask more often instead", param=f"{at}candidateCount")
    if config.response_mime_type not in (None, "", "text/plain", "application/json"):
        raise InvalidRequest("choose text/plain or application/json", param=f"{at}responseMimeType")
    if set(config.response_modalities or ()) - {"TEXT", "MODALITY_UNSPECIFIED"}:
        raise InvalidRequest("answers are text only", param=f"{at}responseModalities")
    if config.speech_config or config.image_config:
        raise InvalidRequest("answers are text only", param=f"{at}speechConfig")
    if config.response_logprobs:
        raise InvalidRequest("log probabilities are not served here", param=f"{at}responseLogprobs")


def _thinking(config: ThinkingConfig | None) -> int | None:
    if config is None or config.thinking_level is None:
        return config.thinking_budget if config else None
    found = THINKING.get(config.thinking_level.lower())
    if found is None:
        raise InvalidRequest(
            "the levels are minimal, low, medium and high",
            param="generationConfig.thinkingConfig.thinkingLevel",
        )
    return found


def _turns(contents: Iterable[ContentBody]) -> list[Message]:
    """Turns; results of functions become turns of their own, before what was said with them."""
    turns: list[Message] = []
    for index, content in enumerate(contents):
        said: list[Part] = []
        results: list[Part] = []
        for number, body in enumerate(many(content.parts)):
            if body.thought:  # what a model thought earlier is not part of what was said
                continue
            part = body.to_part(f"contents[{index}].parts[{number}]")
            (results if isinstance(part, ToolResult) else said).append(part)
        if results:
            turns.append(Message("tool", tuple(results)))
        if said:
            turns.append(Message("assistant" if content.role == "model" else "user", tuple(said)))
    return turns


def _tools(bodies: tuple[GoogleTools, ...], config: ToolConfig | None) -> tuple[tuple[Tool, ...], str]:
    """The functions, and whether one must be called."""
    tools: list[Tool] = []
    for index, body in enumerate(bodies):
        for name in _GOOGLES_TOOLS:
            if getattr(body, name) is not None:
                raise InvalidRequest(f"{name} is not served here", param=f"tools[{index}]")
        for number, declaration in enumerate(body.function_declarations or ()):
            tools.append(declaration.to_tool(f"tools[{index}].functionDeclarations[{number}]"))
    calling = config.function_calling_config if config else None
    if calling is None or calling.mode in (None, "MODE_UNSPECIFIED") or not tools:
        return tuple(tools), ""
    if calling.mode == "NONE":
        return tuple(tools), "none"
    if calling.mode != "ANY":
        return tuple(tools), "auto"
    allowed = calling.allowed_function_names
    if allowed:
        tools = [tool for tool in tools if tool.name in allowed]
        if not tools:
            where = "toolConfig.functionCallingConfig.allowedFunctionNames"
            raise InvalidRequest("none of the allowed functions is declared", param=where)
    return tuple(tools), tools[0].name if allowed and len(tools) == 1 else "required"


_GOOGLES_TOOLS = tuple(
    it.name for it in msgspec.structs.fields(GoogleTools) if it.name != "function_declarations"
)


class CountTokensBody(Struct, rename="camel"):
    """``:countTokens``: contents, or a whole request."""

    contents: Annotated[tuple[ContentBody, ...], Meta(max_length=MAX_MESSAGES)] | ContentBody = ()
    generate_content_request: GenerateContentBody | None = None
    system_instruction: ContentBody | None = None
    tools: Annotated[tuple[GoogleTools, ...], Meta(max_length=MAX_TOOLS)] | GoogleTools | None = None

    def to_prompt(self) -> Prompt:
        """What to count, as a question."""
        whole = self.generate_content_request
        return (
            whole or GenerateContentBody(self.contents, self.system_instruction, tools=self.tools)
        ).to_prompt()


class EmbedContentConfig(Struct, rename="camel"):
    """How to embed; newer clients say it here."""

    output_dimensionality: Dimensions | None = None


class EmbedContentBody(Struct, rename="camel"):
    """``:embedContent``. The task's type is not passed on."""

    content: ContentBody
    output_dimensionality: Dimensions | None = None
    embed_content_config: EmbedContentConfig | None = None

    def dimensions(self) -> int | None:
        config = self.embed_content_config
        return self.output_dimensionality or (config.output_dimensionality if config else None)


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

# Names that Google's JSON also takes in snake_case, by that form.
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
}
_SNAKE = re.compile(rb'"(?:' + "|".join(_CAMEL).encode() + rb')"\s*:')
# What belongs to the caller, whose names are nobody else's.
_THEIRS = frozenset(
    ("args", "response", "parametersJsonSchema", "responseJsonSchema", "properties", "labels")
)


def _renamed(value: Any) -> Any:
    if isinstance(value, list):
        return [_renamed(it) for it in value]
    if not isinstance(value, dict):
        return value
    found = {}
    for key, it in value.items():
        name = _CAMEL.get(key, key)
        found[name] = it if name in _THEIRS else _renamed(it)
    return found


_any = msgspec.json.Decoder()
_decoders: dict[type[Any], "msgspec.json.Decoder[Any]"] = {
    kind: msgspec.json.Decoder(kind) for kind in BODIES
}


def read(kind: type[Any], body: bytes) -> Any:
    """A body as one of ``BODIES``, its names in either form."""
    if _SNAKE.search(body):
        try:
            body = _encode(_renamed(decode(_any, body)))
        except RecursionError as error:
            raise InvalidRequest("the body is nested too deeply") from error
    return decode(_decoders[kind], body or b"{}")


# -- answered --------------------------------------------------------------------------------------------------------


class AskedCall(Struct, frozen=True, omit_defaults=True):
    """A function to call."""

    name: str
    args: Carried
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
    finish_reason: Literal["STOP", "MAX_TOKENS", "SAFETY", "OTHER"] | UnsetType = UNSET
    index: int = 0


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
