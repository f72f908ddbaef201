"""The OpenAPI 3.1 document: one table of what each route does, its schemas made from the types that read and write.

``knowalledge openapi`` prints it. A route that is missing here, or here but not there, fails a test.
"""

from collections.abc import Iterator
from itertools import chain
from typing import Any, Literal

import msgspec
from msgspec import Struct

from knowalledge import __version__
from knowalledge.caching import web as c
from knowalledge.gateway.api import stream as sse
from knowalledge.gateway.api.gemini import routes as gemini
from knowalledge.gateway.api.gemini import schemas as g
from knowalledge.gateway.api.native import schemas as n
from knowalledge.gateway.api.openai import schemas as o
from knowalledge.observability import web as p
from knowalledge.topics import schemas as t
from knowalledge.topics.domain import COUNTS, DETAILS, LEVELS, TAKES, View

Schema = type[Struct]


class Answer(Struct, frozen=True):
    """What comes with 200: JSON of a type, or another medium; and the data of a stream's events."""

    body: Schema | str
    events: tuple[Schema, ...] = ()
    media: str = sse.CONTENT_TYPE.partition(";")[0]  # of the stream
    headers: tuple[str, ...] = ("X-Request-ID",)


class Operation(Struct, frozen=True, kw_only=True):
    """What one route does. ``form`` is whose form its errors take."""

    method: Literal["get", "post"]
    path: str
    tag: str
    name: str  # unique: clients are generated with it
    summary: str
    answer: Answer
    form: Literal["native", "openai", "gemini"] = "native"
    body: Schema | tuple[str, ...] | None = None  # JSON of a type, or other media
    asks: bool = False  # asks a model, so that the headers of a request count
    query: tuple[dict[str, Any], ...] = ()


_QUOTA = (
    "X-Request-ID",
    "X-Priority",
    "RateLimit",
    "RateLimit-Policy",
    "Cache-Status",
    "X-Target",
    "X-Degraded",
)
_CACHEABLE = ("X-Request-ID", "ETag", "Cache-Control", "CDN-Cache-Control", "Cache-Tag", "Cache-Status")


def operations() -> Iterator[Operation]:
    """Every route."""
    yield Operation(
        method="post",
        path="/api/v1/generate",
        tag="native",
        name="generate",
        summary="Ask a model; whole, or as server-sent events: queued, started, delta, done, error",
        body=n.GenerateBody,
        answer=Answer(
            n.GenerateAnswer,
            (n.Place, n.Begun, n.Piece, n.GenerateAnswer, n.Problem),
            headers=_QUOTA,
        ),
        asks=True,
    )
    yield from chain(_knowledge(), _openai(), _gemini(), _operators())


def _knowledge() -> Iterator[Operation]:
    views: tuple[tuple[View, str, Schema, str], ...] = (
        ("whole", "", t.WholeTopic, "A topic: summary, subtopics and explanations"),
        ("subtopics", "/subtopics", t.TopicSubtopics, "The subtopics of a topic"),
        ("explanations", "/explanations", t.TopicExplanations, "Explanations of named subtopics"),
        ("quiz", "/quiz", t.TopicQuiz, "Questions about a topic"),
        ("related", "/related", t.TopicRelated, "Topics that are near"),
    )
    for view, end, answer, summary in views:
        yield Operation(
            method="get",
            path=f"/api/v1/topics/{{topic}}{end}",
            tag="knowledge",
            name=f"topic_{view}",
            summary=summary,
            answer=Answer(answer, headers=_CACHEABLE),
            query=_query(view),
            asks=True,
        )
    yield Operation(
        method="post",
        path="/api/v1/topics/from-image",
        tag="knowledge",
        name="topic_from_image",
        summary="What a picture shows, as a topic",
        body=("image/png", "image/jpeg", "image/webp", "multipart/form-data"),
        answer=Answer(t.SeenImage, headers=("X-Request-ID", "Cache-Status")),
        query=tuple(it for it in _query("related") if it["name"] == "lang"),
        asks=True,
    )


def _query(view: View) -> tuple[dict[str, Any], ...]:
    usual, most = COUNTS[view]
    schemas: dict[str, dict[str, Any]] = {
        "count": {"type": "integer", "minimum": 1, "maximum": most, "default": usual},
        "level": {"type": "string", "enum": list(LEVELS), "default": "general"},
        "lang": {"type": "string", "description": "A language tag such as en or pt-br.", "default": "en"},
        "detail": {"type": "string", "enum": list(DETAILS), "default": "standard"},
        "subtopics": {"type": "string", "description": "Names, with commas between."},
    }
    return tuple(
        {"name": name, "in": "query", "required": name == "subtopics", "schema": schema}
        for name, schema in schemas.items()
        if name in TAKES[view]
    )


def _openai() -> Iterator[Operation]:
    def operation(**known: Any) -> Operation:
        return Operation(tag="openai", form="openai", **known)

    yield operation(
        method="post",
        path="/v1/chat/completions",
        name="openai_chat",
        summary="OpenAI's chat completions; a stream ends with [DONE]",
        body=o.ChatBody,
        answer=Answer(o.ChatCompletion, (o.ChatChunk, o.FaultBody), headers=_QUOTA),
        asks=True,
    )
    yield operation(
        method="post",
        path="/v1/embeddings",
        name="openai_embeddings",
        summary="OpenAI's embeddings",
        body=o.EmbeddingsBody,
        answer=Answer(o.EmbeddingList),
    )
    yield operation(
        method="get",
        path="/v1/models",
        name="openai_models",
        summary="The models that may be named; in Google's form for Google's clients",
        answer=Answer(o.ModelCards),
    )
    yield operation(
        method="get",
        path="/v1/models/{model}",
        name="openai_model",
        summary="One model",
        answer=Answer(o.ModelCard),
    )


def _gemini() -> Iterator[Operation]:
    whole = Answer(g.GenerateContentAnswer, headers=_QUOTA)
    events = Answer(
        "application/json", (g.GenerateContentAnswer, g.StatusBody), headers=("X-Request-ID", "X-Priority")
    )
    methods: dict[str, tuple[Schema, Answer, str]] = {
        "generateContent": (g.GenerateContentBody, whole, "Gemini's generateContent"),
        "streamGenerateContent": (
            g.GenerateContentBody,
            events,
            "The same as a JSON array of pieces, or with alt=sse as server-sent events",
        ),
        "countTokens": (g.CountTokensBody, Answer(g.TokenCount), "The tokens of a prompt"),
        "embedContent": (g.EmbedContentBody, Answer(g.Embedded), "One embedding"),
        "batchEmbedContents": (g.BatchEmbedContentsBody, Answer(g.BatchEmbedded), "Embeddings"),
        "predict": (g.PredictBody, Answer(g.Predictions), "Embeddings, in Vertex AI's older form"),
    }
    alt = {"name": "alt", "in": "query", "schema": {"type": "string", "enum": ["sse", "json"]}}
    for address in gemini.ADDRESSES:
        base = address.replace("<", "{").replace(">", "}")
        place = "_".join(it for it in base.strip("/").replace("{", "").replace("}", "").split("/"))
        for method, (body, answer, summary) in methods.items():
            yield Operation(
                method="post",
                path=f"{base}/{{model}}:{method}",
                tag="gemini",
                name=f"{place}_{method}",
                summary=summary,
                body=body,
                answer=answer,
                form="gemini",
                asks=answer.headers is _QUOTA or bool(answer.events),
                query=(alt,) if answer.events else (),
            )
        if address == gemini.SHARED:
            continue
        listed = g.PublisherModels if "publishers" in base else g.GoogleModels
        yield Operation(
            method="get",
            path=base,
            tag="gemini",
            name=f"{place}_list",
            summary="The models that may be named",
            answer=Answer(listed),
            form="gemini",
        )
        yield Operation(
            method="get",
            path=f"{base}/{{model}}",
            tag="gemini",
            name=f"{place}_get",
            summary="One model",
            answer=Answer(g.GoogleModel),
            form="gemini",
        )


def _operators() -> Iterator[Operation]:
    routes: tuple[tuple[str, str, Schema | str, str], ...] = (
        ("/api/health", "health", p.Health, "Liveness"),
        ("/api/ready", "ready", p.Readiness, "Readiness; 503 while it is not ready"),
        ("/api/health/detailed", "health_detailed", p.DetailedHealth, "Every dependency, with its latency"),
        ("/api/quota/stats", "quota_stats", p.QuotaStats, "What of each quota is used"),
        ("/api/queue/stats", "queue_stats", p.QueueStats, "Who waits"),
        ("/api/cache/stats", "cache_stats", c.CacheStats, "What each cache layer does, holds and saves"),
        ("/metrics", "metrics", "text/plain", "Prometheus' text format, over all workers"),
        ("/api/metrics", "api_metrics", "text/plain", "The same"),
        ("/api/openapi.json", "openapi", "application/json", "This document"),
        ("/api/docs", "docs", "text/html", "This document, to read"),
    )
    for path, name, answer, summary in routes:
        yield Operation(
            method="get",
            path=path,
            tag="operations",
            name=name,
            summary=summary,
            answer=Answer(answer, headers=()),
        )
    yield Operation(
        method="post",
        path="/api/cache/invalidate",
        tag="operations",
        name="cache_invalidate",
        summary="Take answers back in every replica and CDN: by pattern, tag or key",
        body=c.InvalidateBody,
        answer=Answer(c.Invalidated, headers=("X-Request-ID",)),
    )


# -- the document ----------------------------------------------------------------------------------------------------

_PROBLEMS: dict[str, tuple[Schema, str]] = {
    "native": (n.Problem, "application/problem+json"),
    "openai": (o.FaultBody, "application/json"),
    "gemini": (g.StatusBody, "application/json"),
}
_TEXT = {"type": "string"}
_HEADERS: dict[str, str] = {
    "X-Request-ID": "The request's id: the caller's own if it is safe to repeat.",
    "X-Priority": "The level in force: critical, high, medium or low.",
    "X-Degraded": "true where this is second best: another model, or a quota counted without Redis.",
    "X-Target": "Who answers, and why it was chosen.",
    "RateLimit": "What is left of each window (IETF draft).",
    "RateLimit-Policy": "Each window: its limit and its length in seconds (IETF draft).",
    "Retry-After": "Seconds after which to come back.",
    "Cache-Status": "What our caches did (RFC 9211).",
    "Cache-Control": "For browsers.",
    "CDN-Cache-Control": "For CDNs (RFC 9213).",
    "Cache-Tag": "By what a CDN may be told to forget.",
    "ETag": "To ask again with If-None-Match.",
}
_PARAMETERS: dict[str, tuple[str, str]] = {
    "X-Request-ID": (
        "RequestId",
        "An id of the caller's own: up to 128 letters, digits, dots, dashes, colons.",
    ),
    "X-Priority": ("PriorityLevel", "critical, high, medium or low."),
    "Priority": ("Priority", "u=0 (most urgent) to u=7 (RFC 9218)."),
    "X-Server-Timeout": ("ServerTimeout", "Seconds that the caller will wait."),
    "Cache-Control": ("RequestCacheControl", "no-cache, no-store, only-if-cached or max-age (RFC 9111)."),
}


def _ref(kind: str, name: str) -> dict[str, str]:
    return {"$ref": f"#/components/{kind}/{name}"}


def document() -> dict[str, Any]:
    """The whole document, equal every time."""
    found = tuple(operations())
    kinds: dict[Schema, None] = {problem: None for problem, _ in _PROBLEMS.values()}
    for it in found:
        for kind in (it.body, it.answer.body, *it.answer.events):
            if isinstance(kind, type):
                kinds[kind] = None
    refs, schemas = msgspec.json.schema_components(kinds, ref_template="#/components/schemas/{name}")
    by_kind = dict(zip(kinds, refs, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for it in found:
        paths.setdefault(it.path, {})[it.method] = _operation(it, by_kind)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Knowalledge",
            "version": __version__,
            "description": "A quota-aware gateway to language models, in three dialects.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "headers": {
                name.replace("-", ""): {"description": text, "schema": _TEXT}
                for name, text in _HEADERS.items()
            },
            "parameters": {
                name: {"name": header, "in": "header", "description": text, "schema": _TEXT}
                for header, (name, text) in _PARAMETERS.items()
            },
            "responses": {
                f"{form}{kind}": {
                    "description": text,
                    "headers": _headers(names),
                    "content": {media: {"schema": by_kind[problem]}},
                }
                for form, (problem, media) in _PROBLEMS.items()
                for kind, text, names in (
                    ("Refused", "The request cannot be served as it is.", ("X-Request-ID",)),
                    (
                        "Later",
                        "Not now: come back after Retry-After.",
                        ("X-Request-ID", "Retry-After", "RateLimit", "RateLimit-Policy"),
                    ),
                    ("Failed", "The provider, or the gateway, failed.", ("X-Request-ID",)),
                )
            },
        },
    }


def _headers(names: tuple[str, ...]) -> dict[str, Any]:
    return {name: _ref("headers", name.replace("-", "")) for name in names}


def _operation(it: Operation, by_kind: dict[Schema, Any]) -> dict[str, Any]:
    answer = it.answer
    kind = answer.body if isinstance(answer.body, str) else "application/json"
    content: dict[str, Any] = {
        kind: {"schema": by_kind[answer.body]} if isinstance(answer.body, type) else _medium(it, by_kind)
    }
    if answer.events:
        # What each event's data is; OpenAPI 3.1 has no word for it.
        data = {"oneOf": [by_kind[kind] for kind in answer.events]}
        content[answer.media] = {"schema": _TEXT, "x-event-data": data}
    responses: dict[str, Any] = {
        "200": {"description": "The answer.", "headers": _headers(answer.headers), "content": content}
    }
    if "ETag" in answer.headers:
        responses["304"] = {"description": "It has not changed.", "headers": _headers(answer.headers)}
    if it.name == "ready":
        responses["503"] = responses["200"] | {"description": "Not ready."}
    elif it.tag != "operations":
        responses["4XX"] = _ref("responses", f"{it.form}Refused")
        responses["429"] = responses["503"] = _ref("responses", f"{it.form}Later")
        responses["5XX"] = _ref("responses", f"{it.form}Failed")
    found: dict[str, Any] = {
        "operationId": it.name,
        "tags": [it.tag],
        "summary": it.summary,
        "parameters": [
            {"name": name, "in": "path", "required": True, "schema": _TEXT} for name in variables(it.path)
        ]
        + list(it.query)
        + ([_ref("parameters", name) for name, _ in _PARAMETERS.values()] if it.asks else []),
        "responses": responses,
    }
    if isinstance(it.body, type):
        found["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": by_kind[it.body]}},
        }
    elif it.body:
        found["requestBody"] = {"required": True, "content": {media: _upload(media) for media in it.body}}
    return found


def _medium(it: Operation, by_kind: dict[Schema, Any]) -> dict[str, Any]:
    """A body that is no JSON object of ours: text, or the array that a stream may come as."""
    if it.answer.events:
        return {"schema": {"type": "array", "items": {"anyOf": [by_kind[kind] for kind in it.answer.events]}}}
    return {"schema": {"type": "object"} if it.answer.body == "application/json" else _TEXT}


def _upload(media: str) -> dict[str, Any]:
    if media != "multipart/form-data":
        return {}
    picture = {"type": "string", "contentMediaType": "application/octet-stream"}
    return {"schema": {"type": "object", "properties": {"image": picture}, "required": ["image"]}}


def variables(path: str) -> list[str]:
    """The variables of a templated path, in order."""
    return [it.partition("}")[0] for it in path.split("{")[1:]]


def rendered() -> bytes:
    """The document as a file."""
    return msgspec.json.format(msgspec.json.encode(document()), indent=1) + b"\n"
