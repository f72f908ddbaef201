"""The native API in the OpenAPI document."""

from knowalledge.core.access import Access
from knowalledge.core.openapi import Answer, Operation
from knowalledge.gateway.api.native import schemas
from knowalledge.gateway.api.openapi import ANSWER_HEADERS
from knowalledge.web.problems import PROBLEM, Problem

OPERATIONS = (
    Operation(
        rank=10,
        method="post",
        path="/api/v1/generate",
        tag="native",
        name="generate",
        summary="Ask a model; whole, or as server-sent events: queued, started, delta, done, error",
        body=schemas.GenerateBody,
        answer=Answer(
            schemas.GenerateAnswer,
            (schemas.Place, schemas.Begun, schemas.Piece, schemas.GenerateAnswer, Problem),
            headers=ANSWER_HEADERS,
        ),
        errors=PROBLEM,
        asks=True,
        access=Access.GENERATE,
    ),
)
