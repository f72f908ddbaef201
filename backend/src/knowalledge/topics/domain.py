"""Topic queries and the documents that answer them.

A topic's name is normalised, so that all its spellings share one cache entry. The model gets the normalised name, so
that the entry does not depend on which spelling came first.
"""

import re
import unicodedata
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

import msgspec
from msgspec import Meta, Struct

from knowalledge.caching.domain import SCHEMA, Key, digest, slug
from knowalledge.core.errors import InvalidRequest, ProviderGarbage

View = Literal["whole", "subtopics", "explanations", "quiz", "related"]
LEVELS = ("general", "beginner", "intermediate", "advanced")
DETAILS = ("brief", "standard", "deep")
MAX_SUBTOPICS = 30
MAX_NAME = 200  # characters

# Invisible characters and marks of text direction; joiners stay, because emoji and Persian need them.
_INVISIBLE = dict.fromkeys(
    [0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_LANG = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8}){0,2}")


def normalize_topic(name: str, param: str = "topic") -> str:
    """The normal form of a topic's name: Unicode NFC, folded case, single spaces.

    Raises ``InvalidRequest`` for a path, control characters, or a name without letters or digits.
    """
    if len(name) > 4 * MAX_NAME:
        raise InvalidRequest(f"the {param} is longer than {MAX_NAME} characters", param=param)
    if any(
        (unicodedata.category(it) in ("Cc", "Cs") and it not in "\t\n\r") or it == "\ufffd" for it in name
    ):
        raise InvalidRequest(f"the {param} holds control characters or is not UTF-8", param=param)
    text = unicodedata.normalize("NFC", name.translate(_INVISIBLE)).casefold()
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if len(text) > MAX_NAME:
        raise InvalidRequest(f"the {param} is longer than {MAX_NAME} characters", param=param)
    if not any(unicodedata.category(it)[0] in "LNS" or ord(it) > 0x2FFF for it in text):
        raise InvalidRequest(f"the {param} names nothing", param=param)
    if any(part.strip() in (".", "..") for part in re.split(r"[/\\]", text)):
        raise InvalidRequest(f"the {param} is a path", param=param)
    return text


class TopicQuery(Struct, frozen=True):
    """A query about a topic in normal form: equal queries are equal values."""

    view: View
    topic: str
    count: int = 0
    level: str = "general"
    lang: str = "en"
    detail: str = ""
    subtopics: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Its path and query string in the topic API."""
        base = f"/api/v1/topics/{quote(self.topic, safe='')}"
        head = base if self.view == "whole" else f"{base}/{self.view}"
        values: dict[str, object] = {"count": self.count} if self.count else {}
        values |= {"level": self.level, "lang": self.lang}
        if self.view == "explanations":
            values["subtopics"] = ",".join(self.subtopics)
        if self.detail:
            values["detail"] = self.detail
        return f"{head}?{urlencode(values, quote_via=quote)}"


# view: (default, maximum) of count; zeros: takes none
COUNTS: Mapping[str, tuple[int, int]] = {
    "whole": (15, 30),
    "subtopics": (15, 30),
    "explanations": (0, 0),
    "quiz": (5, 20),
    "related": (8, 30),
}
# view: its parameters
TAKES: Mapping[str, set[str]] = {
    "whole": {"count", "level", "lang", "detail"},
    "subtopics": {"count", "level", "lang"},
    "explanations": {"subtopics", "level", "lang", "detail"},
    "quiz": {"count", "level", "lang"},
    "related": {"count", "lang"},
}


def parse_query(view: View, topic: str, parameters: Mapping[str, str]) -> TopicQuery:
    """A query from its parameters. An unknown one is refused: it would only split one document into many entries."""
    for name in parameters:
        if name not in TAKES[view]:
            takes = ", ".join(sorted(TAKES[view]))
            raise InvalidRequest(f"unknown parameter; there are {takes}", param=name[:40])
    default, maximum = COUNTS[view]
    count = default
    if "count" in parameters:
        text = parameters["count"].strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= maximum):
            raise InvalidRequest(f"count is a whole number from 1 to {maximum}", param="count")
        count = int(text)
    lang = (parameters.get("lang") or "en").strip().lower()
    if not _LANG.fullmatch(lang):
        raise InvalidRequest("lang is a language tag such as en or pt-br", param="lang")
    detail = (
        _one_of("detail", parameters.get("detail"), DETAILS, "standard") if "detail" in TAKES[view] else ""
    )
    subtopics: tuple[str, ...] = ()
    if view == "explanations":
        if len(parameters.get("subtopics", "")) > MAX_SUBTOPICS * (MAX_NAME + 1):
            raise InvalidRequest("subtopics is too long", param="subtopics")
        names = [it for it in parameters.get("subtopics", "").split(",") if it.strip()]
        if not 1 <= len(names) <= MAX_SUBTOPICS:
            raise InvalidRequest(
                f"name 1 to {MAX_SUBTOPICS} subtopics, with commas between", param="subtopics"
            )
        subtopics = tuple(dict.fromkeys(normalize_topic(it, "subtopics") for it in names))
    level = _one_of("level", parameters.get("level"), LEVELS, "general")
    return TopicQuery(view, normalize_topic(topic), count, level, lang, detail, subtopics)


def _one_of(name: str, value: str | None, choices: tuple[str, ...], default: str) -> str:
    word = (value or default).strip().lower()
    if word not in choices:
        raise InvalidRequest(f"{name} is one of {', '.join(choices)}", param=name)
    return word


def document_key(query: TopicQuery, model: str, prompt_version: str) -> Key:
    """The key of a public document: all tenants get the same one."""
    subject = f"topic:{slug(query.topic)}"
    name = f"{subject}:{query.view}:{digest(SCHEMA, query, model, prompt_version)}"
    return Key.of(name, "topic", subject, f"model:{slug(model)}")


# -- answers of a model ---------------------------------------------------------------------------

Line = Annotated[str, Meta(min_length=1, max_length=300)]
Prose = Annotated[str, Meta(min_length=1, max_length=8000)]


class Subtopic(Struct):
    title: Line
    summary: Prose


class _Subtopics(Struct):
    subtopics: list[Subtopic]


class Explained(Struct):
    title: Line
    explanation: Prose


class _Whole(Struct):
    summary: Prose
    subtopics: list[Explained]


class _Explanations(Struct):
    explanations: list[Prose]


class Question(Struct):
    question: Prose
    options: Annotated[list[Line], Meta(min_length=2, max_length=6)]
    answer: Annotated[int, Meta(ge=0, le=5)]  # the index of the right option
    explanation: Prose


class _Quiz(Struct):
    questions: list[Question]


class _Related(Struct):
    topics: list[Line]


class Seen(Struct):
    """What an image shows."""

    topic: Line
    description: Prose
    alternatives: Annotated[list[Line], Meta(max_length=5)] = []


_TYPES: Mapping[str, type[Struct]] = {
    "whole": _Whole,
    "subtopics": _Subtopics,
    "explanations": _Explanations,
    "quiz": _Quiz,
    "related": _Related,
    "image": Seen,
}
_DECODERS: Mapping[str, "msgspec.json.Decoder[Any]"] = {
    view: msgspec.json.Decoder(kind) for view, kind in _TYPES.items()
}


def schema_of(view: str, count: int) -> str:
    """The JSON Schema for the model: every field required, no others, lists of ``count`` items."""
    (root,), parts = msgspec.json.schema_components([_TYPES[view]], ref_template="{name}")
    schema = _inlined(root, parts)
    if count:
        for field in schema["properties"].values():
            if field.get("type") == "array":
                field |= {"minItems": count, "maxItems": count}
    return msgspec.json.encode(
        schema
    ).decode()  # in the order of the fields: models write in the schema's order


# Keywords that not all providers accept; the answer is validated afterwards anyway.
_UNSUPPORTED = ("title", "default", "minLength", "maxLength", "$ref", "description")


def _inlined(node: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    schema = dict(parts[node["$ref"]]) if "$ref" in node else dict(node)
    for word in _UNSUPPORTED:
        schema.pop(word, None)
    if "properties" in schema:
        schema["properties"] = {name: _inlined(it, parts) for name, it in schema["properties"].items()}
        schema |= {"required": list(schema["properties"]), "additionalProperties": False}
    if "items" in schema:
        schema["items"] = _inlined(schema["items"], parts)
    return schema


class Malformed(Exception):
    """An answer that does not fit its query. The message is fit to be sent to the model for repair."""


def read(query: TopicQuery, text: str) -> dict[str, Any]:
    """A model's answer as the fields of a document. Raises ``Malformed``."""
    return _CHECKS[query.view](query, parse(query.view, text))


def parse(view: str, text: str) -> Any:
    """The JSON of an answer as its type; a code fence around it is accepted. Raises ``Malformed``."""
    body = text.strip()
    if body.startswith("```"):
        body = body.removesuffix("```").partition("\n")[2]
    try:
        return _DECODERS[view].decode(body.encode(errors="replace"))
    except msgspec.ValidationError as error:
        raise Malformed(str(error)) from error
    except (msgspec.DecodeError, RecursionError) as error:
        raise Malformed("it is not JSON") from error


def _distinct(items: list[Any], name: Callable[[Any], str], count: int, what: str) -> list[Any]:
    """The first item of each name, at most ``count``. Raises ``Malformed`` for fewer than half of that."""
    seen: dict[str, Any] = {}
    for item in items:
        seen.setdefault(" ".join(name(item).casefold().split()), item)
    seen.pop("", None)
    distinct = list(seen.values())[:count]
    if 2 * len(distinct) < count:
        raise Malformed(f"it has {len(distinct)} different {what} instead of {count}")
    return distinct


def _whole(query: TopicQuery, answer: _Whole) -> dict[str, Any]:
    subtopics = _distinct(answer.subtopics, lambda it: it.title, query.count, "subtopics")
    return {"summary": answer.summary, "subtopics": subtopics}


def _subtopics(query: TopicQuery, answer: _Subtopics) -> dict[str, Any]:
    for subtopic in answer.subtopics:  # a comma separates two subtopics in a query
        subtopic.title = " ".join(subtopic.title.replace(",", " ").split())
    return {"subtopics": _distinct(answer.subtopics, lambda it: it.title, query.count, "subtopics")}


def _explanations(query: TopicQuery, answer: _Explanations) -> dict[str, Any]:
    if len(answer.explanations) != len(query.subtopics):
        raise Malformed(
            f"it has {len(answer.explanations)} explanations instead of {len(query.subtopics)}, one a subtopic"
        )
    pairs = zip(query.subtopics, answer.explanations, strict=True)
    return {"explanations": [{"subtopic": name, "explanation": text} for name, text in pairs]}


def _quiz(query: TopicQuery, answer: _Quiz) -> dict[str, Any]:
    for question in answer.questions:
        if question.answer >= len(question.options):
            raise Malformed("an answer points past its options")
        if len({option.casefold() for option in question.options}) < len(question.options):
            raise Malformed("a question has the same option twice")
    return {"questions": _distinct(answer.questions, lambda it: it.question, query.count, "questions")}


def _related(query: TopicQuery, answer: _Related) -> dict[str, Any]:
    others = [name for name in answer.topics if _topic_or_empty(name) not in ("", query.topic)]
    return {"related": _distinct(others, str, query.count, "topics")}


def _topic_or_empty(name: str) -> str:
    """The topic of this name; empty for a name that is invalid."""
    try:
        return normalize_topic(name)
    except InvalidRequest:
        return ""


_CHECKS: Mapping[str, Callable[[TopicQuery, Any], dict[str, Any]]] = {
    "whole": _whole,
    "subtopics": _subtopics,
    "explanations": _explanations,
    "quiz": _quiz,
    "related": _related,
}

_encode = msgspec.json.Encoder().encode
_SOUND, _DEGRADED = b',"degraded":false}', b',"degraded":true}'


def document(
    query: TopicQuery, fields: dict[str, Any], model: str, prompt_version: str, demonstration: bool = False
) -> bytes:
    """The body of a document. Equal answers are equal bytes, so their ETags are equal too."""
    whole = {"topic": query.topic, "view": query.view, "level": query.level, "lang": query.lang}
    if query.detail:
        whole["detail"] = query.detail
    origin = {"model": model, "prompt": prompt_version}
    mark = {"demonstration": True} if demonstration else {}
    return _encode({**whole, **fields, **origin, **mark, "degraded": False})


def degraded(body: bytes) -> bytes:
    """The same document, marked as degraded."""
    if not body.endswith(_SOUND):
        raise ProviderGarbage("a stored document has an unknown form")
    return body.removesuffix(_SOUND) + _DEGRADED
