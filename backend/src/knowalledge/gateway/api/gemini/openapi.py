"""Google's APIs in the OpenAPI document."""

from collections.abc import Iterator
from functools import partial

from knowalledge.core.access import Access
from knowalledge.core.openapi import Answer, Operation, Schema
from knowalledge.gateway.api.gemini import routes, schemas
from knowalledge.gateway.api.gemini.errors import FORM
from knowalledge.gateway.api.openapi import ANSWER_HEADERS

_operation = partial(Operation, rank=40, tag="gemini", errors=FORM)
_WHOLE = Answer(schemas.GenerateContentAnswer, headers=ANSWER_HEADERS)
_STREAM = Answer(
    "application/json",
    (schemas.GenerateContentAnswer, schemas.StatusBody),
    headers=("X-Request-ID", "X-Priority"),
)
_METHODS: dict[str, tuple[Schema, Answer, str]] = {
    "generateContent": (schemas.GenerateContentBody, _WHOLE, "Gemini's generateContent"),
    "streamGenerateContent": (
        schemas.GenerateContentBody,
        _STREAM,
        "The same as a JSON array of pieces, or with alt=sse as server-sent events",
    ),
    "countTokens": (schemas.CountTokensBody, Answer(schemas.TokenCount), "The tokens of a prompt"),
    "embedContent": (schemas.EmbedContentBody, Answer(schemas.Embedded), "One embedding"),
    "batchEmbedContents": (schemas.BatchEmbedContentsBody, Answer(schemas.BatchEmbedded), "Embeddings"),
    "predict": (
        schemas.PredictBody,
        Answer(schemas.Predictions),
        "Embeddings, in Vertex AI's older form",
    ),
}
_ALT = {"name": "alt", "in": "query", "schema": {"type": "string", "enum": ["sse", "json"]}}


def _operations() -> Iterator[Operation]:
    for address in routes.ADDRESSES:
        base = address.replace("<", "{").replace(">", "}")
        place = base.strip("/").replace("{", "").replace("}", "").replace("/", "_")
        for method, (body, answer, summary) in _METHODS.items():
            yield _operation(
                method="post",
                path=f"{base}/{{model}}:{method}",
                name=f"{place}_{method}",
                summary=summary,
                body=body,
                answer=answer,
                asks=answer is _WHOLE or answer is _STREAM,
                query=(_ALT,) if answer is _STREAM else (),
                access=Access.GENERATE,
            )
        if address == routes.SHARED:
            continue
        listed = schemas.PublisherModels if "publishers" in base else schemas.GoogleModels
        yield _operation(
            method="get",
            path=base,
            name=f"{place}_list",
            summary="The models that may be named",
            answer=Answer(listed),
            access=Access.READ,
        )
        yield _operation(
            method="get",
            path=f"{base}/{{model}}",
            name=f"{place}_get",
            summary="One model",
            answer=Answer(schemas.GoogleModel),
            access=Access.READ,
        )


OPERATIONS = tuple(_operations())
