"""The models in the form of Google's APIs, and whether a client of Google's asks."""

from flask import Request as HttpRequest
from flask import Response

from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.gemini import schemas
from knowalledge.web.responses import current, json_response

# How names of models begin in the Gemini API and in Vertex AI.
GEMINI_PREFIX, VERTEX_PREFIX = "models/", "publishers/google/models/"


def is_google_client(http: HttpRequest) -> bool:
    """Whether one of Google's SDKs calls; ``/v1/models`` is an address of the Gemini API and of OpenAI's."""
    environ = http.environ
    return "HTTP_X_GOOG_API_KEY" in environ or "HTTP_X_GOOG_API_CLIENT" in environ


def list_models(api: ApiContext, prefix: str = GEMINI_PREFIX) -> Response:
    """Every model that may be named."""
    models = tuple(schemas.GoogleModel(prefix + name, name) for name in api.models(current()))
    body = schemas.GoogleModels(models) if prefix == GEMINI_PREFIX else schemas.PublisherModels(models)
    return json_response(body, api.web.headers(current()))


def describe_model(api: ApiContext, model: str, prefix: str = GEMINI_PREFIX) -> Response:
    """One model. Raises ``UnknownModel``."""
    name = api.model(current(), model)
    return json_response(schemas.GoogleModel(prefix + name, name), api.web.headers(current()))
