"""The knowledge API in the OpenAPI document."""

from functools import partial
from typing import Any

from knowalledge.core.access import Access
from knowalledge.core.openapi import Answer, Operation, Schema
from knowalledge.topics import schemas
from knowalledge.topics.demonstration import MOST
from knowalledge.topics.domain import COUNTS, DETAILS, LEVELS, TAKES, View
from knowalledge.web.problems import PROBLEM

_operation = partial(Operation, rank=20, tag="knowledge", errors=PROBLEM, asks=True)
_CACHEABLE = ("X-Request-ID", "ETag", "Cache-Control", "CDN-Cache-Control", "Cache-Tag", "Cache-Status")
_VIEWS: tuple[tuple[View, str, Schema, str], ...] = (
    ("whole", "", schemas.WholeTopic, "A topic: summary, subtopics and explanations"),
    ("subtopics", "/subtopics", schemas.TopicSubtopics, "The subtopics of a topic"),
    ("explanations", "/explanations", schemas.TopicExplanations, "Explanations of named subtopics"),
    ("quiz", "/quiz", schemas.TopicQuiz, "Questions about a topic"),
    ("related", "/related", schemas.TopicRelated, "Topics that are near"),
)


def _query(view: View) -> tuple[dict[str, Any], ...]:
    usual, most = COUNTS[view]
    parameters: dict[str, dict[str, Any]] = {
        "count": {
            "type": "integer",
            "minimum": 1,
            "maximum": most,
            "default": usual,
            "description": f"The built-in model gives at most {MOST[view]}.",
        },
        "level": {"type": "string", "enum": list(LEVELS), "default": "general"},
        "lang": {"type": "string", "description": "A language tag such as en or pt-br.", "default": "en"},
        "detail": {"type": "string", "enum": list(DETAILS), "default": "standard"},
        "subtopics": {"type": "string", "description": "Names, with commas between."},
    }
    return tuple(
        {"name": name, "in": "query", "required": name == "subtopics", "schema": schema}
        for name, schema in parameters.items()
        if name in TAKES[view]
    )


OPERATIONS = (
    *(
        _operation(
            method="get",
            path=f"/api/v1/topics/{{topic}}{end}",
            name=f"topic_{view}",
            summary=summary,
            answer=Answer(schema, headers=_CACHEABLE),
            query=_query(view),
            access=Access.READ,
        )
        for view, end, schema, summary in _VIEWS
    ),
    _operation(
        method="post",
        path="/api/v1/topics/from-image",
        name="topic_from_image",
        summary="What a picture shows, as a topic",
        body=("image/png", "image/jpeg", "image/webp", "multipart/form-data"),
        answer=Answer(schemas.SeenImage, headers=("X-Request-ID", "Cache-Status")),
        query=tuple(it for it in _query("related") if it["name"] == "lang"),
        access=Access.GENERATE,
    ),
)
