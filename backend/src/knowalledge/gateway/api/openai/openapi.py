"""OpenAI's API in the OpenAPI document."""

from functools import partial

from knowalledge.core.access import Access
from knowalledge.core.openapi import Answer, Operation
from knowalledge.gateway.api.openai import routes, schemas
from knowalledge.gateway.api.openai.errors import FORM
from knowalledge.gateway.api.openapi import ANSWER_HEADERS

_operation = partial(Operation, rank=30, tag="openai", errors=FORM)


def _operations(base: str) -> tuple[Operation, ...]:
    prefix = "" if base == routes.BASES[0] else "v1beta_"
    return (
        _operation(
            method="post",
            path=f"{base}/chat/completions",
            name=f"{prefix}openai_chat",
            summary="OpenAI's chat completions; a stream ends with [DONE]",
            body=schemas.ChatBody,
            answer=Answer(
                schemas.ChatCompletion, (schemas.ChatChunk, schemas.FaultBody), headers=ANSWER_HEADERS
            ),
            asks=True,
            access=Access.GENERATE,
        ),
        _operation(
            method="post",
            path=f"{base}/embeddings",
            name=f"{prefix}openai_embeddings",
            summary="OpenAI's embeddings",
            body=schemas.EmbeddingsBody,
            answer=Answer(schemas.EmbeddingList),
            access=Access.GENERATE,
        ),
        _operation(
            method="get",
            path=f"{base}/models",
            name=f"{prefix}openai_models",
            summary="The models that may be named; in Google's form for Google's clients",
            answer=Answer(schemas.ModelCards),
            access=Access.READ,
        ),
        _operation(
            method="get",
            path=f"{base}/models/{{model}}",
            name=f"{prefix}openai_model",
            summary="One model",
            answer=Answer(schemas.ModelCard),
            access=Access.READ,
        ),
    )


OPERATIONS = tuple(it for base in routes.BASES for it in _operations(base))
