"""OpenAI's API in the OpenAPI document."""

from functools import partial

from knowalledge.core.access import Access
from knowalledge.core.openapi import Answer, Operation
from knowalledge.gateway.api.openai import schemas
from knowalledge.gateway.api.openai.errors import FORM
from knowalledge.gateway.api.openapi import ANSWER_HEADERS

_operation = partial(Operation, rank=30, tag="openai", errors=FORM)

OPERATIONS = (
    _operation(
        method="post",
        path="/v1/chat/completions",
        name="openai_chat",
        summary="OpenAI's chat completions; a stream ends with [DONE]",
        body=schemas.ChatBody,
        answer=Answer(schemas.ChatCompletion, (schemas.ChatChunk, schemas.FaultBody), headers=ANSWER_HEADERS),
        asks=True,
        access=Access.GENERATE,
    ),
    _operation(
        method="post",
        path="/v1/embeddings",
        name="openai_embeddings",
        summary="OpenAI's embeddings",
        body=schemas.EmbeddingsBody,
        answer=Answer(schemas.EmbeddingList),
        access=Access.GENERATE,
    ),
    _operation(
        method="get",
        path="/v1/models",
        name="openai_models",
        summary="The models that may be named; in Google's form for Google's clients",
        answer=Answer(schemas.ModelCards),
        access=Access.READ,
    ),
    _operation(
        method="get",
        path="/v1/models/{model}",
        name="openai_model",
        summary="One model",
        answer=Answer(schemas.ModelCard),
        access=Access.READ,
    ),
)
