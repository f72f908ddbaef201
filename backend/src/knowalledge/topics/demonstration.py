"""The topic API with a demonstration model: one too small to follow a schema, to count, or not to repeat itself.

The sampler holds its answers to a schema that leaves it no room for that: each text is one sentence of a limited
length, and where texts must differ, each begins in its own way. So every whole answer fits its query.
"""

from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec.structs import replace

from knowalledge.topics.domain import TopicQuery, View

# The most items of a document; a query may ask for fewer.
MOST: Mapping[View, int] = {"whole": 3, "subtopics": 3, "explanations": 4, "quiz": 2, "related": 4}
# The model knows English only, and plain characters need no escape within JSON.
_PLAIN = "([A-Za-z ,'()-]|[0-9][.,]?)"
_OPENINGS = ("What ", "How ", "Why ")
# Texts that begin within different ranges differ.
_RANGES = ("[A-D]", "[E-I]", "[J-N]", "[O-S]", "[T-Z]")
_OPTIONS = 4


def fitted(query: TopicQuery) -> TopicQuery:
    """The query that the model answers instead: fewer items, brief, in English."""
    return replace(
        query,
        count=min(query.count, MOST[query.view]),
        subtopics=query.subtopics[: MOST["explanations"]],
        lang="en",
        detail="brief" if query.detail else "",
    )


def schema_of(view: str, count: int) -> str:
    """The JSON Schema of an answer, as text. Any text that matches is an answer that ``domain.read`` takes."""
    sentence = _text("[A-Z]", 20, 120, "[.]")
    match view:
        case "whole":
            items = [_object(title=_title(it), explanation=sentence) for it in _OPENINGS[:count]]
            schema = _object(summary=sentence, subtopics=_tuple(items))
        case "subtopics":
            items = [_object(title=_title(it), summary=sentence) for it in _OPENINGS[:count]]
            schema = _object(subtopics=_tuple(items))
        case "explanations":
            schema = _object(explanations=_tuple([sentence] * count))
        case "quiz":
            schema = _object(questions=_tuple([_question(it, sentence) for it in _OPENINGS[:count]]))
        case "related":  # one more than is asked for, because one may be the topic itself
            schema = _object(topics=_tuple([_text(it, 3, 40) for it in _RANGES[: count + 1]]))
        case _:
            raise ValueError(f"no such view: {view}")
    return msgspec.json.encode(schema).decode()


def _question(opening: str, sentence: dict[str, Any]) -> dict[str, Any]:
    return _object(
        question=_text(opening, 10, 80, "[?]"),
        options=_tuple([_text(it, 2, 24) for it in _RANGES[:_OPTIONS]]),
        answer={"type": "integer", "minimum": 0, "maximum": _OPTIONS - 1},
        explanation=sentence,
    )


def _title(opening: str) -> dict[str, Any]:
    return _text(opening, 4, 40)


def _text(first: str, least: int, most: int, end: str = "") -> dict[str, Any]:
    """A string: ``first``, then ``least`` to ``most`` plain characters, then ``end``."""
    return {"type": "string", "pattern": f"^{first}{_PLAIN}{{{least},{most}}}{end}$"}


def _object(**fields: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


def _tuple(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {"type": "array", "prefixItems": items}
