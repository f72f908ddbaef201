"""The Gemini API (ai.google.dev/api), by API key or OAuth."""

from collections.abc import Iterator
from urllib.parse import quote

import msgspec
from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderGarbage
from knowalledge.core.settings import Fault, write
from knowalledge.gateway.domain.answer import Embeddings
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.ports import Provider
from knowalledge.net.http.client import HttpClient
from knowalledge.providers import google
from knowalledge.providers.credentials import headers_for
from knowalledge.providers.descriptor import ProviderDescriptor, ProviderSpec, http_client
from knowalledge.providers.google_rest import MODEL_SAFE, AuthHeaders, GoogleRest, encode
from knowalledge.quota.domain.window import Count

URL = "https://generativelanguage.googleapis.com"


class _ContentEmbedding(Struct):
    values: tuple[float, ...]


class _BatchEmbedContentsResponse(Struct):
    embeddings: tuple[_ContentEmbedding, ...]


_read_embeddings = msgspec.json.Decoder(_BatchEmbedContentsResponse).decode


class Gemini(GoogleRest):
    """Implements ``Provider``. ``model`` is quoted for a URL path."""

    def __init__(self, http: HttpClient, model: str, headers: AuthHeaders) -> None:
        super().__init__(http, f"/v1beta/models/{model}", headers)
        self._name = f"models/{model}"

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        body = google.input_fields(prompt)
        if len(body) > 1:  # the top level takes contents only
            body = {"generateContentRequest": {"model": self._name, **body}}
        return self._count_tokens(body, timeout)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        """One call for all inputs. ``usage`` is None: this API does not report tokens of embeddings."""
        extra = {} if dimensions is None else {"outputDimensionality": dimensions}
        requests = [{"model": self._name, "content": {"parts": [{"text": text}]}, **extra} for text in inputs]
        body = self._call(f"{self._path}:batchEmbedContents", encode({"requests": requests}), timeout)
        try:
            embeddings = _read_embeddings(body).embeddings
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ProviderGarbage("the provider's embeddings are not vectors") from error
        if len(embeddings) != len(inputs):
            raise ProviderGarbage("the provider answered with another number of embeddings")
        return Embeddings(tuple(it.values for it in embeddings))

    def ping(self, timeout: float) -> None:
        """Fetch the model's description: needs valid credentials and uses no token quota."""
        response = self._http.get(self._path, *self._authenticate(timeout))
        if response.status != 200:
            self._raise_error(response)


def _create(spec: ProviderSpec, url: str, clock: Clock) -> Provider:
    http = http_client(spec, url, clock)
    headers = headers_for(spec.api_key, spec.credentials, clock, proxy=spec.proxy)
    return Gemini(http, quote(spec.model, safe=MODEL_SAFE), headers)


def _faults(spec: ProviderSpec) -> Iterator[Fault]:
    if not spec.api_key and not spec.credentials:
        steps = write('api_key: "${GOOGLE_API_KEY}"')
        yield Fault("api_key", "is missing", "set api_key: ${GOOGLE_API_KEY}", steps)


# Limits: ai.google.dev/gemini-api/docs/rate-limits.
GEMINI = ProviderDescriptor(
    name="gemini",
    dialect="gemini",
    create=_create,
    default_url=lambda _: URL,
    faults=_faults,
    semconv_name="gcp.gemini",
    tokens=Count.INPUT,
    day_zone="America/Los_Angeles",
    quota_note="input alone, as that API does, and its day ends at midnight Pacific",
)
