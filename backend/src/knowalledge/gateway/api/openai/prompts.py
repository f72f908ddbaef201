"""A chat body of OpenAI's dialect as a prompt, and an embeddings body as texts."""

from typing import Literal

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.api.openai.fields import REFUSALS
from knowalledge.gateway.api.openai.passthrough import source_of
from knowalledge.gateway.api.openai.schemas import (
    AssistantMessage,
    AudioPart,
    CallBody,
    ChatBody,
    ChatMessage,
    DeveloperMessage,
    EmbeddingsBody,
    FilePart,
    FunctionBody,
    ImagePart,
    ImageUrl,
    InputAudio,
    InputFile,
    ObjectFormat,
    RefusalPart,
    SchemaFormat,
    SystemMessage,
    TextPart,
    ToolMessage,
    UserMessage,
)
from knowalledge.gateway.api.parsing import (
    THINKING_TOKENS,
    base64_bytes,
    file_ref,
    in_call_order,
    json_object,
    non_empty,
    optional_json_object,
)
from knowalledge.gateway.domain.prompt import (
    Blob,
    FileRef,
    Message,
    Part,
    Prompt,
    Text,
    Tool,
    ToolCall,
    ToolResult,
)


def prompt_of(body: ChatBody, source: bytes, passes: bool = False) -> Prompt:
    """Raises ``InvalidRequest`` for what cannot be served, and where there is nothing to answer.

    ``source``: the body as it came. ``passes``: it may go on like that; then nothing is refused that its provider may
    serve.
    """
    if body.n not in (None, 1):  # also where it could pass: the quota of so many answers is not reserved
        raise InvalidRequest("one choice a request: ask n times instead", param="n")
    unserved = REFUSALS.first(source)
    if unserved is not None and not passes:
        raise unserved
    passed = source_of(source, unserved) if passes else None
    system, turns = _conversation(body.messages, passed is not None)
    answer_format = body.response_format
    schema = ""
    if isinstance(answer_format, SchemaFormat):
        schema = optional_json_object(answer_format.json_schema.schema, "response_format.json_schema.schema")
    tools = tuple(_tool(tool.function, index) for index, tool in enumerate(body.tools or ()))
    effort = body.reasoning_effort
    return Prompt(
        non_empty(turns, "messages"),
        system=system,
        max_output_tokens=body.max_completion_tokens or body.max_tokens,
        temperature=body.temperature,
        top_p=body.top_p,
        top_k=body.top_k,
        media_resolution=_media_resolution(body.messages),
        seed=body.seed,
        stop=(body.stop,) if isinstance(body.stop, str) else body.stop or (),
        presence_penalty=body.presence_penalty,
        frequency_penalty=body.frequency_penalty,
        json=isinstance(answer_format, ObjectFormat | SchemaFormat),
        json_schema=schema,
        tools=tools,
        tool_choice=_tool_choice(body, tools),
        thinking_budget=None if effort is None else THINKING_TOKENS.get(effort),
        source=passed,
    )


def texts_of(body: EmbeddingsBody) -> tuple[str, ...]:
    """The texts to embed. Raises ``InvalidRequest`` for token ids, which mean nothing to another tokenizer."""
    texts: list[str] = []
    for text in (body.input,) if isinstance(body.input, str) else body.input:
        if not isinstance(text, str):
            raise InvalidRequest("send text: token ids mean nothing to this model", param="input")
        if not text.strip():
            raise InvalidRequest("there is an empty text among the input", param="input")
        texts.append(text)
    return tuple(texts)


def _media_resolution(messages: tuple[ChatMessage, ...]) -> Literal["", "low", "medium", "high"]:
    """The finest detail that any image wants; ``auto`` is the model's own."""
    images = (
        part.image_url.detail
        for message in messages
        if isinstance(message, UserMessage) and not isinstance(message.content, str)
        for part in message.content
        if isinstance(part, ImagePart)
    )
    details = set(images)
    return "high" if "high" in details else "low" if details == {"low"} else ""


def _tool_choice(body: ChatBody, tools: tuple[Tool, ...]) -> str:
    choice = body.tool_choice
    if choice is None or isinstance(choice, str):
        if choice == "required" and not tools:
            raise InvalidRequest("there is no tool to require", param="tool_choice")
        return choice or ""
    name = choice.function.name
    if name not in {tool.name for tool in tools}:
        raise InvalidRequest("the tool to call is not among the tools", param="tool_choice")
    return name


def _tool(function: FunctionBody, index: int) -> Tool:
    schema = optional_json_object(function.parameters, f"tools[{index}].function.parameters")
    return Tool(function.name, function.description or "", schema)


def _conversation(messages: tuple[ChatMessage, ...], lenient: bool) -> tuple[str, list[Message]]:
    """System text and turns. Results of parallel calls become one turn in the order of the calls, as Google's APIs
    demand, which pair them by position.

    ``lenient``: whether every call has its one result is for the provider to judge.
    """
    system: list[str] = []
    turns: list[Message] = []
    called: dict[str, str] = {}  # names of functions, by the ids of their calls
    results: list[ToolResult] = []
    for index, message in enumerate(messages):
        if isinstance(message, ToolMessage):
            results.append(_result(message, called, index))
            continue
        if results:
            turns.append(_results_turn(results, turns, index, lenient))
            results = []
        match message:
            case SystemMessage(content) | DeveloperMessage(content):
                system.append(_text(content))
            case UserMessage(content):
                turns.append(Message("user", _user_parts(content, index)))
            case AssistantMessage(text, calls):
                parts: list[Part] = [Text(_text(text))] if text else []
                parts += (_call(call, called, index) for call in calls or ())
                turns.append(Message("assistant", tuple(parts)))
    if results:
        turns.append(_results_turn(results, turns, len(messages), lenient))
    return "\n".join(filter(None, system)), turns


def _results_turn(results: list[ToolResult], turns: list[Message], end: int, lenient: bool) -> Message:
    """The results before message ``end`` in the order of their calls. Raises ``InvalidRequest``."""
    calls = [it.id for turn in turns[-1:] for it in turn.parts if isinstance(it, ToolCall)]
    if not lenient:
        given = [it.id for it in results]
        if len(set(calls)) < len(calls):
            raise InvalidRequest(
                "two calls have one id", param=f"messages[{end - len(results) - 1}].tool_calls"
            )
        if len(set(given)) < len(given):
            raise InvalidRequest("a call has two results", param=f"messages[{end - 1}].tool_call_id")
        if set(calls) - set(given):
            raise InvalidRequest(
                "a call has no result", param=f"messages[{end - len(results) - 1}].tool_calls"
            )
    return Message("tool", in_call_order(results, turns))


def _result(message: ToolMessage, called: dict[str, str], index: int) -> ToolResult:
    name = called.get(message.tool_call_id)
    if name is None:
        param = f"messages[{index}].tool_call_id"
        raise InvalidRequest("a tool's result answers no call before it", param=param)
    return ToolResult(name, _text(message.content), message.tool_call_id)


def _call(call: CallBody, called: dict[str, str], index: int) -> ToolCall:
    """The call, noted in ``called``. Without an id it has its function's name for one."""
    function, extra = call.function, call.extra_content
    arguments = json_object(function.arguments.encode() or b"{}", f"messages[{index}].tool_calls")
    call_id = call.id or function.name
    called[call_id] = function.name
    signature = extra.google.thought_signature if extra and extra.google else ""
    return ToolCall(function.name, arguments, call_id, signature)


def _text(content: str | tuple[TextPart | RefusalPart, ...]) -> str:
    if isinstance(content, str):
        return content
    return "".join(it.text if isinstance(it, TextPart) else it.refusal for it in content)


def _user_parts(
    content: str | tuple[TextPart | ImagePart | AudioPart | FilePart, ...], index: int
) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),)
    parts: list[Part] = []
    for number, part in enumerate(content):
        param = f"messages[{index}].content[{number}]"
        match part:
            case TextPart(text):
                parts.append(Text(text))
            case ImagePart(ImageUrl(url)) if not url.startswith("data:"):
                image = file_ref(url, "", param)
                parts.append(image if image.mime else FileRef(url, "image/jpeg"))  # Vertex AI demands a type
            case ImagePart(ImageUrl(url)):
                parts.append(_inline(url, param))
            case FilePart(InputFile(data)):
                parts.append(_inline(data, param))
            case AudioPart(InputAudio(data, encoding)):
                mime = "audio/wav" if encoding == "wav" else "audio/mpeg"
                parts.append(Blob(mime, base64_bytes(data, param)))
    return tuple(parts)


def _inline(url: str, param: str) -> Blob:
    """The media of a ``data:`` address (RFC 2397)."""
    head, comma, data = url.partition(",")
    if not (comma and head.startswith("data:") and head.endswith(";base64")):
        raise InvalidRequest("give data:TYPE;base64,DATA", param=param)
    mime = head[len("data:") : -len(";base64")].partition(";")[0]
    if "/" not in mime:
        raise InvalidRequest("the data: address names no media type", param=param)
    return Blob(mime, base64_bytes(data, param))
