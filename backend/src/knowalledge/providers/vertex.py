"""Vertex AI (cloud.google.com/vertex-ai/docs/reference/rest), by OAuth, or in express mode by API key."""

from typing import Any

import msgspec
from msgspec import Struct

from knowalledge.core.errors import ProviderGarbage
from knowalledge.gateway.domain.answer import Embeddings, Usage
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.net.http.client import Http
from knowalledge.providers import google
from knowalledge.providers.google_rest import GoogleRest, Headers, encode

PING = Prompt((Message("user", (Text("ping"),)),))


class _Statistics(Struct, frozen=True):
    token_count: Any = 0


class _Vector(Struct):
    values: tuple[float, ...]
    statistics: _Statistics = _Statistics()


class _Prediction(Struct):
    embeddings: _Vector


class _Predicted(Struct):
    predictions: tuple[_Prediction, ...]


_read = msgspec.json.Decoder(_Predicted).decode


def url(location: str) -> str:
    """The endpoint of a location; ``global`` and express mode have one without a prefix."""
    prefix = "" if location in ("", "global") else f"{location}-"
    return f"https://{prefix}aiplatform.googleapis.com"


def resource(model: str, project: str, location: str) -> str:
    """A model's name as Vertex AI knows it; without a project, the one of express mode."""
    name = f"publishers/google/models/{model}"
    return f"projects/{project}/locations/{location}/{name}" if project else name


def embed_body(inputs: tuple[str, ...], dimensions: int | None) -> dict[str, Any]:
    """The body of predict, one instance a text."""
    body: dict[str, Any] = {"instances": [{"content": text} for text in inputs]}
    if dimensions is not None:
        body["parameters"] = {"outputDimensionality": dimensions}
    return body


def read_embeddings(body: bytes, count: int) -> Embeddings:
    """The answer of predict to ``count`` texts."""
    try:
        found = _read(body).predictions
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProviderGarbage("the provider's embeddings are not vectors") from error
    if len(found) != count:
        raise ProviderGarbage("the provider answered with another number of embeddings")
    counts = [it.embeddings.statistics.token_count for it in found]
    # A count in tokens, though some versions write it as 7.0.
    usable = all(isinstance(it, int | float) and 0 <= it <= google.ABSURD_TOKENS for it in counts)
    usage = Usage(int(sum(counts))) if usable and sum(counts) else None
    return Embeddings(tuple(it.embeddings.values for it in found), usage)


class Vertex(GoogleRest):
    """Implements ``Provider``."""

    def __init__(self, http: Http, model: str, project: str, location: str, headers: Headers) -> None:
        super().__init__(http, f"/v1/{resource(model, project, location)}", headers)

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        return self.counted(google.question(prompt), timeout)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        """One call for all inputs. Some models take only one at a time, and refuse more."""
        body = encode(embed_body(inputs, dimensions))
        return read_embeddings(self.ask(f"{self._path}:predict", body, timeout), len(inputs))

    def ping(self, timeout: float) -> None:
        """A count of one word: it needs the same rights and model as a real call, and is charged to nothing."""
        self.count_tokens(PING, timeout)
