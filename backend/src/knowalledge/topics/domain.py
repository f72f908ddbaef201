"""Topics: what may be asked about one, and what a whole answer is.

A topic's name is normalised, so that every spelling of it is one cache entry, and the model is asked by the normal
name, so that the entry does not depend on who came first.
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
MOST_SUBTOPICS = 30
LONGEST = 200  # characters of a name

# Marks that only turn the direction of text, or are seen by nobody; joiners stay, emoji and Persian need them.
_UNSEEN = dict.fromkeys(
    [0x200B, 0x200E, 0x200F, 0x2060, 0xFEFF, *range(0x202A, 0x202F), *range(0x2066, 0x206A)]
)
_LANG = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8}){0,2}")


def normal(name: str, param: str = "topic") -> str:
    """A topic's one name: Unicode NFC, folded case, single spaces. Raises ``InvalidRequest`` for what is no name."""
    if len(name) > 4 * LONGEST:
        raise InvalidRequest(f"the {param} is longer than {LONGEST} characters", param=param)
    if any(
        (unicodedata.category(it) in ("Cc", "Cs") and it not in "\t\n\r") or it == "\ufffd" for it in name
    ):
        raise InvalidRequest(f"the {param} holds control characters or is not UTF-8", param=param)
    text = unicodedata.normalize("NFC", name.translate(_UNSEEN)).casefold()
    text = unicodedata.normalize("NFC", " ".join(text.split()))
    if len(text) > LONGEST:
        raise InvalidRequest(f"the {param} is longer than {LONGEST} characters", param=param)
    if not any(unicodedata.category(it)[0] in "LNS" or ord(it) > 0x2FFF for it in text):
        raise InvalidRequest(f"the {param} names nothing", param=param)
    if any(part.strip() in (".", "..") for part in re.split(r"[/\\]", text)):
        raise InvalidRequest(f"the {param} is a path", param=param)
    return text


class TopicQuery(Struct, frozen=True):
    """One question about a topic, in normal form: equal questions are equal values."""

    view: View
    topic: str
    count: int = 0
    level: str = "general"
    lang: str = "en"
    detail: str = ""
    subtopics: tuple[str, ...] = ()

    @property
    def path(self) -> str:
        """Where the knowledge API answers it."""
        base = f"/api/v1/topics/{quote(self.topic, safe='')}"
        head = base if self.view == "whole" else f"{base}/{self.view}"
        found: dict[str, object] = {"count": self.count} if self.count else {}
        found |= {"level": self.level, "lang": self.lang}
        if self.view == "explanations":
            found["subtopics"] = ",".join(self.subtopics)
        if self.detail:
            found["detail"] = self.detail
        return f"{head}?{urlencode(found, quote_via=quote)}"


# view: default and most of count; 0: takes none
COUNTS: Mapping[str, tuple[int, int]] = {
    "whole": (15, 30),
    "subtopics": (15, 30),
    "explanations": (0, 0),
    "quiz": (5, 20),
    "related": (8, 30),
}
# view: the parameters that it takes
TAKES: Mapping[str, set[str]] = {
    "whole": {"count", "level", "lang", "detail"},
    "subtopics": {"count", "level", "lang"},
    "explanations": {"subtopics", "level", "lang", "detail"},
    "quiz": {"count", "level", "lang"},
    "related": {"count", "lang"},
}


def query(view: View, topic: str, given: Mapping[str, str]) -> TopicQuery:
    """A question as it was asked. An unknown parameter is refused: it would only make one answer many entries."""
    for name in given:
        if name not in TAKES[view]:
            takes = ", ".join(sorted(TAKES[view]))
            raise InvalidRequest(f"unknown parameter; there are {takes}", param=name[:40])
    usual, most = COUNTS[view]
    count = usual
    if "count" in given:
        text = given["count"].strip()
        if not (text.isascii() and text.isdecimal() and len(text) < 4 and 1 <= int(text) <= most):
            raise InvalidRequest(f"count is a whole number from 1 to {most}", param="count")
        count = int(text)
    lang = (given.get("lang") or "en").strip().lower()
    if not _LANG.fullmatch(lang):
        raise InvalidRequest("lang is a language tag such as en or pt-br", param="lang")
    detail = _one_of("detail", given.get("detail"), DETAILS, "standard") if "detail" in TAKES[view] else ""
    subtopics: tuple[str, ...] = ()
    if view == "explanations":
        if len(given.get("subtopics", "")) > MOST_SUBTOPICS * (LONGEST + 1):
            raise InvalidRequest("subtopics is too long", param="subtopics")
        names = [it for it in given.get("subtopics", "").split(",") if it.strip()]
        if not 1 <= len(names) <= MOST_SUBTOPICS:
            raise InvalidRequest(
                f"name 1 to {MOST_SUBTOPICS} subtopics, with commas between", param="subtopics"
            )
        subtopics = tuple(dict.fromkeys(normal(it, "subtopics") for it in names))
    level = _one_of("level", given.get("level"), LEVELS, "general")
    return TopicQuery(view, normal(topic), count, level, lang, detail, subtopics)


def _one_of(name: str, found: str | None, known: tuple[str, ...], usual: str) -> str:
    word = (found or usual).strip().lower()
    if word not in known:
        raise InvalidRequest(f"{name} is one of {', '.join(known)}", param=name)
    return word


def document_key(asked: TopicQuery, model: str, prompt_version: str) -> Key:
    """The key of a public answer: the same for every tenant, because everybody gets the same."""
    subject = f"topic:{slug(asked.topic)}"
    name = f"{subject}:{asked.view}:{digest(SCHEMA, asked, model, prompt_version)}"
    return Key.of(name, "topic", subject, f"model:{slug(model)}")


# -- what a whole answer is ---------------------------------------------------------------------------

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
    answer: Annotated[int, Meta(ge=0, le=5)]  # which option
    explanation: Prose


class _Quiz(Struct):
    questions: list[Question]


class _Related(Struct):
    topics: list[Line]


class Seen(Struct):
    """What a picture shows."""

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
    """The JSON Schema that a model is held to: every field required, nothing else, lists of the wanted length."""
    (root,), parts = msgspec.json.schema_components([_TYPES[view]], ref_template="{name}")
    found = _inlined(root, parts)
    if count:
        for field in found["properties"].values():
            if field.get("type") == "array":
                field |= {"minItems": count, "maxItems": count}
    return msgspec.json.encode(
        found
    ).decode()  # in the order of the fields: models write in the schema's order


# What providers' schema dialects do not all take; the answer is held to it afterwards anyway.
_UNTAKEN = ("title", "default", "minLength", "maxLength", "$ref", "description")


def _inlined(node: dict[str, Any], parts: Mapping[str, Any]) -> dict[str, Any]:
    found = dict(parts[node["$ref"]]) if "$ref" in node else dict(node)
    for word in _UNTAKEN:
        found.pop(word, None)
    if "properties" in found:
        found["properties"] = {name: _inlined(it, parts) for name, it in found["properties"].items()}
        found |= {"required": list(found["properties"]), "additionalProperties": False}
    if "items" in found:
        found["items"] = _inlined(found["items"], parts)
    return found


class Malformed(Exception):
    """An answer that is not what was asked for; its text may be told to the model, to be repaired."""


def read(asked: TopicQuery, text: str) -> dict[str, Any]:
    """The whole answer to a question as a document's fields. Raises ``Malformed``."""
    found = parse(asked.view, text)
    return _CHECKS[asked.view](asked, found)


def parse(view: str, text: str) -> Any:
    """The JSON of an answer as its type; a code fence around it is forgiven."""
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
    """The first of each name, at most ``count``; fewer than half of that is no whole answer."""
    seen: dict[str, Any] = {}
    for item in items:
        seen.setdefault(" ".join(name(item).casefold().split()), item)
    seen.pop("", None)
    found = list(seen.values())[:count]
    if 2 * len(found) < count:
        raise Malformed(f"it has {len(found)} different {what} instead of {count}")
    return found


def _whole(asked: TopicQuery, found: _Whole) -> dict[str, Any]:
    subtopics = _distinct(found.subtopics, lambda it: it.title, asked.count, "subtopics")
    return {"summary": found.summary, "subtopics": subtopics}


def _subtopics(asked: TopicQuery, found: _Subtopics) -> dict[str, Any]:
    for it in found.subtopics:  # with a comma it could not be asked about: there it parts two subtopics
        it.title = " ".join(it.title.replace(",", " ").split())
    return {"subtopics": _distinct(found.subtopics, lambda it: it.title, asked.count, "subtopics")}


def _explanations(asked: TopicQuery, found: _Explanations) -> dict[str, Any]:
    if len(found.explanations) != len(asked.subtopics):
        raise Malformed(
            f"it has {len(found.explanations)} explanations instead of {len(asked.subtopics)}, one a subtopic"
        )
    pairs = zip(asked.subtopics, found.explanations, strict=True)
    return {"explanations": [{"subtopic": name, "explanation": text} for name, text in pairs]}


def _quiz(asked: TopicQuery, found: _Quiz) -> dict[str, Any]:
    for it in found.questions:
        if it.answer >= len(it.options):
            raise Malformed("an answer points past its options")
        if len({option.casefold() for option in it.options}) < len(it.options):
            raise Malformed("a question has the same option twice")
    return {"questions": _distinct(found.questions, lambda it: it.question, asked.count, "questions")}


def _related(asked: TopicQuery, found: _Related) -> dict[str, Any]:
    others = [name for name in found.topics if _named(name) not in ("", asked.topic)]
    return {"related": _distinct(others, str, asked.count, "topics")}


def _named(name: str) -> str:
    """The topic of this name; empty if it could not be asked about."""
    try:
        return normal(name)
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


def document(asked: TopicQuery, fields: dict[str, Any], model: str, prompt_version: str) -> bytes:
    """The body that everybody gets: equal answers are equal bytes, so that their ETag is equal too."""
    whole = {"topic": asked.topic, "view": asked.view, "level": asked.level, "lang": asked.lang}
    if asked.detail:
        whole["detail"] = asked.detail
    return _encode({**whole, **fields, "model": model, "prompt": prompt_version, "degraded": False})


def degraded(body: bytes) -> bytes:
    """The same document, saying of itself that it is second best."""
    if not body.endswith(_SOUND):
        raise ProviderGarbage("a stored document has an unknown form")
    return body.removesuffix(_SOUND) + _DEGRADED
