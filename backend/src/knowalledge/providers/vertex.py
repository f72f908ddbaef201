"""Vertex AI (cloud.google.com/vertex-ai/docs/reference/rest), by OAuth, or in express mode by API key."""

from collections.abc import Iterator
from importlib.util import find_spec
from urllib.parse import quote

from knowalledge.core.clock import Clock
from knowalledge.core.settings import Fault, write
from knowalledge.gateway.domain.answer import Embeddings
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.ports import Provider
from knowalledge.net.http.client import HttpClient
from knowalledge.providers import google
from knowalledge.providers.aiplatform import AiPlatform
from knowalledge.providers.credentials import headers_for
from knowalledge.providers.descriptor import (
    REST,
    ProviderDescriptor,
    ProviderSpec,
    http_client,
    proxy_for,
)
from knowalledge.providers.google_rest import MODEL_SAFE, AuthHeaders, GoogleRest, encode

_AIPLATFORM = "aiplatform"


def url(location: str) -> str:
    """The endpoint of a location; ``global`` and express mode (no location) have one without a prefix."""
    prefix = "" if location in ("", "global") else f"{location}-"
    return f"https://{prefix}aiplatform.googleapis.com"


def resource(model: str, project: str, location: str) -> str:
    """The resource name of a Google model; without a project, that of express mode."""
    name = f"publishers/google/models/{model}"
    return f"projects/{project}/locations/{location}/{name}" if project else name


class Vertex(GoogleRest):
    """Implements ``Provider``. ``model``, ``project`` and ``location`` are quoted for a URL path."""

    def __init__(
        self, http: HttpClient, model: str, project: str, location: str, headers: AuthHeaders
    ) -> None:
        super().__init__(http, f"/v1/{resource(model, project, location)}", headers)

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        return self._count_tokens(google.input_fields(prompt), timeout)

    def embed(self, inputs: tuple[str, ...], dimensions: int | None, timeout: float) -> Embeddings:
        """One call for all inputs. Models that take one input a call reject more (``ProviderRejected``)."""
        body = encode(google.predict_body(inputs, dimensions))
        return google.read_embeddings(self._call(f"{self._path}:predict", body, timeout), len(inputs))

    def ping(self, timeout: float) -> None:
        """Count the tokens of one word: needs the rights and the model of a real call, and uses no quota."""
        self.count_tokens(google.PING, timeout)


def _create(spec: ProviderSpec, base_url: str, clock: Clock) -> Provider:
    headers = headers_for(spec.api_key, spec.credentials, clock, proxy=spec.proxy)
    if spec.client == _AIPLATFORM:
        name = resource(spec.model, spec.project, spec.location)
        return AiPlatform(base_url, name, headers, clock, proxy_for(base_url, spec.proxy))
    http = http_client(spec, base_url, clock)
    model = quote(spec.model, safe=MODEL_SAFE)
    return Vertex(http, model, quote(spec.project, safe=":"), quote(spec.location), headers)


def _faults(spec: ProviderSpec) -> Iterator[Fault]:
    if not spec.api_key and not (spec.project and spec.location):
        pairs = {"project: YOUR_PROJECT": spec.project, "location: global": spec.location}
        steps = write(*(pair for pair, value in pairs.items() if not value))
        cure = "set both, or an api_key for express mode"
        yield Fault("", "vertex needs project and location", cure, steps)
    if spec.client == _AIPLATFORM and not _installed("google.cloud.aiplatform_v1"):
        cure = "pip install 'knowalledge[aiplatform]', or write rest"
        yield Fault("client", "is not installed", cure, write("client: rest"))


def _installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


VERTEX = ProviderDescriptor(
    name="vertex",
    dialect="gemini",
    create=_create,
    default_url=lambda spec: url(spec.location),
    faults=_faults,
    clients=(REST, _AIPLATFORM),
    semconv_name="gcp.vertex_ai",
)
