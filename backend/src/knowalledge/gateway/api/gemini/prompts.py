"""A body of Gemini's dialect as a prompt, and contents as texts to embed."""

from collections.abc import Iterable
from typing import Literal

import msgspec

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.gemini.fields import REFUSALS
from knowalledge.gateway.api.gemini.json_schema import json_schema
from knowalledge.gateway.api.gemini.passthrough import source_of
from knowalledge.gateway.api.gemini.schemas import (
    ContentBody,
    CountTokensBody,
    EmbedContentBody,
    FunctionDeclaration,
    GenerateContentBody,
    GenerationConfig,
    GoogleTools,
    PartBody,
    ThinkingConfig,
    ToolConfig,
    as_tuple,
)
from knowalledge.gateway.api.parsing import (
    THINKING_TOKENS,
    base64_bytes,
    file_ref,
    in_call_order,
    non_empty,
    optional_json_object,
)
from knowalledge.gateway.domain.prompt import Blob, Message, Part, Prompt, Text, Tool, ToolCall, ToolResult

# Values of Google's enums, by their numbers in proto JSON.
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
_LEVELS = ("THINKING_LEVEL_UNSPECIFIED", "LOW", "HIGH", "MEDIUM", "MINIMAL")
_RESOLUTIONS: dict[str | int, Literal["", "low", "medium", "high"]] = {
    "MEDIA_RESOLUTION_LOW": "low",
    "MEDIA_RESOLUTION_MEDIUM": "medium",
    "MEDIA_RESOLUTION_HIGH": "high",
    1: "low",
    2: "medium",
    3: "high",
}

_encode = msgspec.json.Encoder().encode
# Values of Google's enums, by their numbers in proto JSON.
_MODES = ("MODE_UNSPECIFIED", "AUTO", "ANY", "NONE", "VALIDATED")
_LEVELS = ("THINKING_LEVEL_UNSPECIFIED", "LOW", "HIGH", "MEDIUM", "MINIMAL")

_encode = msgspec.json.Encoder().encode
# Google's own tools, which the gateway does not serve.
_GOOGLE_TOOLS = tuple(
    it.name for it in msgspec.structs.fields(GoogleTools) if it.name != "function_declarations"
)


def prompt_of(body: GenerateContentBody, named: bytes = b"{}", source: bytes | None = None) -> Prompt:
    """Raises ``InvalidRequest`` for what cannot be served, and where there is nothing to answer.

    ``named``: the body with names in camelCase. ``source``: the body as it came, where it may go on like that; then
    nothing is refused that its provider may serve.
    """
    config = body.generation_config or GenerationConfig()
    if config.candidate_count not in (
        None,
        1,
    ):  # also where it could pass: the quota of so many is not reserved
        raise InvalidRequest("one candidate a request", param="generationConfig.candidateCount")
    unserved = REFUSALS.first(named) or _unserved(body, config)
    if unserved is not None and source is None:
        raise unserved
    passed = None
    if source is not None:
        lacks_role = any(not it.role for it in as_tuple(body.contents))
        passed = source_of(source, unserved, lacks_role)
    system = body.system_instruction
    safety = as_tuple(body.safety_settings)
    tools, tool_choice = _tools(as_tuple(body.tools), body.tool_config)
    schema = _response_schema(config)
    return Prompt(
        non_empty(_turns(as_tuple(body.contents), passed is not None), "contents"),
        system=text_of(system, "systemInstruction") if system else "",
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
        tool_choice=tool_choice,
        thinking_budget=_thinking_budget(config.thinking_config, passed is not None),
        thinking_level=_thinking_level(config.thinking_config),
        media_resolution=_RESOLUTIONS.get(config.media_resolution or "", ""),
        safety=_encode(safety).decode() if safety else "",
        source=passed,
    )


def counted_prompt_of(body: CountTokensBody) -> Prompt:
    """The prompt whose tokens to count. Raises ``InvalidRequest``."""
    request = body.generate_content_request
    return prompt_of(request or GenerateContentBody(body.contents, body.system_instruction, tools=body.tools))


def text_of(content: ContentBody, param: str) -> str:
    """The text of instructions, or of what is to be embedded. Raises ``InvalidRequest`` for other media."""
    texts: list[str] = []
    for part in as_tuple(content.parts):
        if part.text is None:
            raise InvalidRequest("only text is taken here", param=param)
        texts.append(part.text)
    return "".join(texts)


def dimensions_of(body: EmbedContentBody) -> int | None:
    """The size of the vectors that is wanted; None: the model's own."""
    config = body.embed_content_config
    return body.output_dimensionality or (config.output_dimensionality if config else None)


def _unserved(body: GenerateContentBody, config: GenerationConfig) -> InvalidRequest | None:
    """Values, not fields, that only a provider of this dialect can serve."""
    if config.response_mime_type not in (None, "", "text/plain", "application/json"):
        return InvalidRequest(
            "choose text/plain or application/json", param="generationConfig.responseMimeType"
        )
    calling = body.tool_config.function_calling_config if body.tool_config else None
    if calling is not None and calling.mode in ("VALIDATED", _MODES.index("VALIDATED")):
        return InvalidRequest("choose AUTO, ANY or NONE", param="toolConfig.functionCallingConfig.mode")
    return None


def _response_schema(config: GenerationConfig) -> str:
    """The JSON Schema of the answer; empty if there is none."""
    plain = optional_json_object(config.response_json_schema, "generationConfig.responseJsonSchema")
    if plain:
        return plain
    param = "generationConfig.responseSchema"
    return json_schema(optional_json_object(config.response_schema, param), param)


def _thinking_budget(config: ThinkingConfig | None, passes: bool) -> int | None:
    if config is None or config.thinking_level is None:
        return config.thinking_budget if config else None
    level = config.thinking_level
    if isinstance(level, int):  # an enum's value as its number
        level = _LEVELS[level] if 0 <= level < len(_LEVELS) else ""
    if level in ("", _LEVELS[0]) and config.thinking_level != "":
        return config.thinking_budget
    tokens = THINKING_TOKENS.get(level.lower())
    if tokens is None and not passes:
        raise InvalidRequest(
            "the levels are minimal, low, medium and high",
            param="generationConfig.thinkingConfig.thinkingLevel",
        )
    return tokens


def _thinking_level(config: ThinkingConfig | None) -> str:
    """The level by name, in small letters; empty if there is none, or one that is unknown here."""
    level = config.thinking_level if config else None
    if isinstance(level, int):
        level = _LEVELS[level] if 0 <= level < len(_LEVELS) else None
    return level.lower() if level and level.lower() in THINKING_TOKENS else ""


def _turns(contents: Iterable[ContentBody], lenient: bool = False) -> list[Message]:
    """The turns. Results of functions become a turn of their own, before the rest of their content.

    ``lenient``: kinds of parts that the gateway does not carry are left out, because the body goes on as it came.
    """
    turns: list[Message] = []
    for index, content in enumerate(contents):
        parts: list[Part] = []
        results: list[ToolResult] = []
        for number, body in enumerate(as_tuple(content.parts)):
            if body.thought:  # a model's earlier thoughts are no part of what it said
                continue
            try:
                part = _part(body, f"contents[{index}].parts[{number}]")
            except InvalidRequest:
                if not lenient:
                    raise
                part = Text("-")
            if isinstance(part, ToolResult):
                results.append(part)
            else:
                parts.append(part)
        if results:
            turns.append(Message("tool", in_call_order(results, turns)))
        if parts:
            turns.append(Message("assistant" if content.role == "model" else "user", tuple(parts)))
    return turns


def _part(body: PartBody, param: str) -> Part:
    """Raises ``InvalidRequest`` for kinds of parts that the gateway does not carry."""
    if body.text is not None:
        return Text(body.text)
    if (data := body.inline_data) is not None:
        return Blob(data.mime_type, base64_bytes(data.data, param))
    if (file := body.file_data) is not None:
        return file_ref(file.file_uri, file.mime_type, param)
    if (call := body.function_call) is not None:
        arguments = optional_json_object(call.args, f"{param}.functionCall.args") or "{}"
        return ToolCall(call.name, arguments, call.id or "", body.thought_signature or "")
    if (result := body.function_response) is not None:
        content = optional_json_object(result.response, f"{param}.functionResponse.response") or "{}"
        return ToolResult(result.name, content, result.id or "")
    raise InvalidRequest(
        "a part is text, inlineData, fileData, functionCall or functionResponse", param=param
    )


def _tools(bodies: tuple[GoogleTools, ...], config: ToolConfig | None) -> tuple[tuple[Tool, ...], str]:
    """The functions, and the prompt's ``tool_choice``."""
    tools: list[Tool] = []
    for index, body in enumerate(bodies):
        for number, declaration in enumerate(body.function_declarations or ()):
            tools.append(_tool(declaration, f"tools[{index}].functionDeclarations[{number}]"))
    calling = config.function_calling_config if config else None
    given = calling.mode if calling else None
    mode = _MODES[given] if isinstance(given, int) else given
    if calling is None or mode in (None, _MODES[0]) or not tools:
        return tuple(tools), ""
    if mode == "NONE":
        return tuple(tools), "none"
    if mode != "ANY":
        return tuple(tools), "auto"
    allowed = calling.allowed_function_names
    if allowed:
        tools = [tool for tool in tools if tool.name in allowed]
        if not tools:
            param = "toolConfig.functionCallingConfig.allowedFunctionNames"
            raise InvalidRequest("none of the allowed functions is declared", param=param)
    return tuple(tools), tools[0].name if allowed and len(tools) == 1 else "required"


def _tool(declaration: FunctionDeclaration, param: str) -> Tool:
    schema = optional_json_object(declaration.parameters_json_schema, param)
    schema = schema or json_schema(optional_json_object(declaration.parameters, param), param)
    return Tool(declaration.name, declaration.description or "", schema)
