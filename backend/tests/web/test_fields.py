"""No field of the references is without a row, and the code does what the row says."""

import json
import re
import types
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NotRequired, Required, Union, get_args, get_origin

import pytest
from google.genai import types as google_types
from msgspec.structs import replace
from openai.types.chat import ChatCompletion, ChatCompletionChunk, completion_create_params
from typing_extensions import get_type_hints, is_typeddict

from knowalledge.core.errors import InvalidRequest, ProviderRejected
from knowalledge.gateway.api.dialects import TABLES
from knowalledge.gateway.api.fields import Fate, FieldTable, Rule
from knowalledge.gateway.api.gemini import fields as gemini_fields
from knowalledge.gateway.api.gemini.prompts import prompt_of as gemini_prompt_of
from knowalledge.gateway.api.gemini.schemas import GenerateContentBody, read_named
from knowalledge.gateway.api.openai import fields as openai_fields
from knowalledge.gateway.api.openai.prompts import prompt_of
from knowalledge.gateway.api.openai.schemas import read_chat
from knowalledge.gateway.domain.prompt import Blob, FileRef, Message, Prompt, Text
from knowalledge.providers import google, openai_requests

USER = {"role": "user", "content": "hi"}
LOW = {
    "role": "user",
    "content": [{"type": "image_url", "image_url": {"url": "https://x/y", "detail": "low"}}],
}
HI = [{"role": "user", "parts": [{"text": "hi"}]}]


def paths(kind: Any, path: str = "", above: tuple[Any, ...] = ()) -> Iterator[str]:
    """Every field of an SDK's type, and of the types of its fields, as a path."""
    origin, arguments = get_origin(kind), get_args(kind)
    if origin in (Annotated, Required, NotRequired):
        yield from paths(arguments[0], path, above)
    elif origin in (Union, types.UnionType):
        for argument in arguments:
            yield from paths(argument, path, above)
    elif isinstance(origin, type) and not issubclass(origin, Mapping) and arguments:
        yield from paths(arguments[0], f"{path}[]", above)
    elif kind not in above and (is_typeddict(kind) or hasattr(kind, "model_fields")):
        fields = getattr(kind, "model_fields", None)
        hints = (
            {it: fields[it].annotation for it in fields}
            if fields
            else get_type_hints(kind, include_extras=True)
        )
        for name, hint in hints.items():
            place = f"{path}.{name}".lstrip(".")
            yield place
            yield from paths(hint, place, (*above, kind))


def camel(path: str) -> str:
    return re.sub("_([a-z0-9])", lambda it: it[1].upper(), path)


def openai_request() -> set[str]:
    return {*paths(completion_create_params.CompletionCreateParamsBase), "stream"}


def openai_answer() -> set[str]:
    return {*paths(ChatCompletion), *paths(ChatCompletionChunk)}


def google_request() -> set[str]:
    parts: dict[str, Any] = {
        "contents[]": google_types.Content,
        "systemInstruction": google_types.Content,
        "tools[]": google_types.Tool,
        "toolConfig": google_types.ToolConfig,
        "safetySettings[]": google_types.SafetySetting,
        "generationConfig": google_types.GenerationConfig,
    }
    nested = {camel(f"{place}.{it}") for place, kind in parts.items() for it in paths(kind)}
    return {*nested, "cachedContent", "labels", "modelArmorConfig"}


def google_answer() -> set[str]:
    own = {
        "sdkHttpResponse",
        "automaticFunctionCallingHistory",
        "parsed",
    }  # made by the SDK, not by the server
    return {
        it
        for it in map(camel, paths(google_types.GenerateContentResponse))
        if re.split(r"[.\[]", it)[0] not in own
    }


@pytest.mark.parametrize(
    ("table", "published", "least"),
    [
        (openai_fields.REQUEST, openai_request(), 120),
        (openai_fields.ANSWER, google_answer(), 100),
        (gemini_fields.REQUEST, google_request(), 300),
        (gemini_fields.ANSWER, openai_answer(), 100),
    ],
    ids=["openai requests", "gemini answers", "gemini requests", "openai answers"],
)
def test_every_field_that_the_sdk_has_is_covered_by_a_rule(
    table: FieldTable, published: set[str], least: int
) -> None:
    assert len(published) > least
    assert [it for it in sorted(published) if table.rule_for(it) is None] == []


@pytest.mark.parametrize("table", TABLES, ids=lambda it: f"{it.source} {it.name}")
def test_no_path_has_two_rules_and_every_one_says_how(table: FieldTable) -> None:
    found = [it.path for it in table.rules]
    assert len(set(found)) == len(found)
    assert all(it.how for it in table.rules)


def nested(path: str, value: Any) -> Any:
    """A document with this value at a path."""
    for step in reversed([it for it in re.split(r"\.|(\[\])", path) if it]):
        value = [value] if step == "[]" else {step: value}
    return value


def refusals(table: FieldTable) -> list[Rule]:
    return [it for it in table.rules if it.fate is Fate.REFUSED]


@pytest.mark.parametrize("rule", refusals(openai_fields.REQUEST), ids=lambda it: it.path)
def test_a_refused_field_of_openais_is_named(rule: Rule) -> None:
    error = openai_fields.REFUSALS.first(json.dumps(nested(rule.path, "x")).encode())
    assert error is not None
    assert error.param == rule.path.replace("[]", "[0]")
    for value in (None, False, *rule.harmless):
        assert openai_fields.REFUSALS.first(json.dumps(nested(rule.path, value)).encode()) is None


@pytest.mark.parametrize("rule", refusals(gemini_fields.REQUEST), ids=lambda it: it.path)
def test_a_refused_field_of_googles_is_named(rule: Rule) -> None:
    error = gemini_fields.REFUSALS.first(json.dumps(nested(rule.path, "x")).encode())
    assert error is not None
    assert error.param == rule.path.replace("[]", "[0]")


def test_a_refused_field_may_be_in_snake_case() -> None:
    forms: list[Any] = [[{"google_search": {}}], {"google_search": {}}]
    for tools in forms:
        with pytest.raises(InvalidRequest) as caught:
            to_openai(tools=tools)
        assert caught.value.param == "tools[0].googleSearch"


def to_google(**fields: Any) -> Any:
    source = json.dumps({"messages": [USER], **fields}).encode()
    return json.loads(google.request_body(prompt_of(read_chat(source), source)))


def to_openai(limit_name: str = "max_tokens", **fields: Any) -> Any:
    body, named = read_named(GenerateContentBody, json.dumps({"contents": HI, **fields}).encode())
    return json.loads(openai_requests.request_body("m", gemini_prompt_of(body, named), False, limit_name))


@pytest.mark.parametrize(
    ("fields", "config"),
    [
        ({"reasoning_effort": "low"}, {"thinkingConfig": {"thinkingBudget": 1024}}),
        ({"top_k": 3}, {"topK": 3}),
        ({"max_completion_tokens": 5}, {"maxOutputTokens": 5}),
        ({"parallel_tool_calls": True, "verbosity": "medium", "n": 1, "service_tier": "flex", "user": "u"}, None),
        ({"messages": [LOW]}, {"mediaResolution": "MEDIA_RESOLUTION_LOW"}),
    ],
)  # fmt: skip
def test_a_field_of_openais_arrives_at_google(fields: Any, config: Any) -> None:
    assert to_google(**fields).get("generationConfig") == config


@pytest.mark.parametrize(
    ("config", "fields"),
    [
        ({"thinkingConfig": {"thinkingBudget": 0}}, {"reasoning_effort": "none"}),
        ({"thinkingConfig": {"thinkingBudget": 5000}}, {"reasoning_effort": "medium"}),
        ({"thinkingConfig": {"thinkingBudget": -1}}, {}),
        ({"thinkingConfig": {"thinkingLevel": "LOW", "includeThoughts": True}}, {"reasoning_effort": "low"}),
        ({"topK": 3}, {"top_k": 3}),
        ({"responseModalities": ["TEXT"], "candidateCount": 1}, {}),
    ],
)
def test_a_field_of_googles_arrives_at_openai(config: Any, fields: Any) -> None:
    body = to_openai(generationConfig=config)
    assert {name: it for name, it in body.items() if name not in ("model", "messages")} == fields


def test_top_k_is_refused_where_openai_itself_answers() -> None:
    with pytest.raises(ProviderRejected):
        to_openai("max_completion_tokens", generationConfig={"topK": 3})


def test_a_mode_that_openai_does_not_have_is_refused() -> None:
    with pytest.raises(InvalidRequest) as caught:
        to_openai(toolConfig={"functionCallingConfig": {"mode": "VALIDATED"}})
    assert caught.value.param == "toolConfig.functionCallingConfig.mode"


def test_a_level_stays_a_level_and_properties_keep_their_order() -> None:
    schema = {"type": "OBJECT", "properties": {"a": {}, "b": {}}, "propertyOrdering": ["b", "a"]}
    config = {"thinkingConfig": {"thinkingLevel": "LOW"}, "responseSchema": schema}
    body, named = read_named(
        GenerateContentBody, json.dumps({"contents": HI, "generationConfig": config}).encode()
    )
    sent = json.loads(google.request_body(gemini_prompt_of(body, named)))["generationConfig"]
    assert sent["thinkingConfig"] == {"thinkingLevel": "LOW"}
    assert list(sent["responseJsonSchema"]["properties"]) == ["b", "a"]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        ({"type": "object", "properties": {"a": {}}, "required": ["a"], "additionalProperties": False}, True),
        ({"type": "object", "properties": {"a": {}}, "required": ["a"]}, False),
        ({"type": "object", "properties": {"a": {}}, "additionalProperties": False}, False),
        ({"type": "array", "items": {"type": "object"}}, False),
        ({"type": "array", "items": {"type": "string"}}, True),
    ],
)
def test_a_schema_is_strict_only_if_openai_takes_it_so(schema: Any, strict: bool) -> None:
    prompt = Prompt((Message("user", (Text("hi"),)),), json_schema=json.dumps(schema))
    sent = json.loads(openai_requests.request_body("m", prompt, False))["response_format"]["json_schema"]
    assert (sent["strict"], sent["schema"]) == (strict, schema)


@pytest.mark.parametrize(
    ("part", "kind"),
    [
        (Blob("image/png", b"x"), "image_url"),
        (Blob("audio/wav", b"x"), "input_audio"),
        (Blob("audio/mpeg", b"x"), "input_audio"),
        (Blob("application/pdf", b"x"), "file"),
        (Blob("text/csv", b"a,b"), "text"),
        (FileRef("https://x/y.png", "image/png"), "image_url"),
        (FileRef("https://x/y"), "image_url"),
        (Blob("audio/ogg", b"x"), None),
        (Blob("video/mp4", b"x"), None),
        (FileRef("gs://b/o", "image/png"), None),
        (FileRef("https://x/y.pdf", "application/pdf"), None),
        (FileRef("https://generativelanguage.googleapis.com/v1beta/files/abc", "image/png"), None),
    ],
)
def test_media_take_the_form_of_their_kind_or_are_refused(part: Blob | FileRef, kind: str | None) -> None:
    prompt = Prompt((Message("user", (Text("look"), part)),))
    if kind is None:
        with pytest.raises(ProviderRejected):
            openai_requests.request_body("m", prompt, False)
        return
    sent = json.loads(openai_requests.request_body("m", prompt, False))["messages"][0]["content"]
    assert sent == "looka,b" if kind == "text" else sent[1]["type"] == kind


def test_an_image_at_an_address_without_an_extension_has_a_type_at_google() -> None:
    image = {"type": "image_url", "image_url": {"url": "https://x/y"}}
    sent = to_google(messages=[{"role": "user", "content": [image]}])
    assert sent["contents"][0]["parts"][0]["fileData"]["mimeType"] == "image/jpeg"


def test_prompts_of_other_dialects_have_none_of_the_new_fields_and_so_the_same_keys() -> None:
    plain = Prompt((Message("user", (Text("hi"),)),))
    assert replace(plain, thinking_level="", media_resolution="", source=None) == plain
