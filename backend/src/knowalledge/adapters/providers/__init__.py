"""Models behind addresses, one dialect each; ``build`` makes the provider of a target."""

from msgspec import Struct

from knowalledge.adapters.providers.credentials import header_source
from knowalledge.adapters.providers.embedded import Embedded
from knowalledge.adapters.providers.http import Http
from knowalledge.adapters.providers.openai import OpenAi
from knowalledge.adapters.providers.rest import GoogleRest
from knowalledge.domain.ports import Clock, Provider

GEMINI_URL = "https://generativelanguage.googleapis.com"
OPENAI_URL = "https://api.openai.com/v1"


class ProviderSpec(Struct, frozen=True):
    """Where a target's model is, and who we are to it."""

    provider: str  # vertex | gemini | openai | embedded
    model: str
    base_url: str = ""  # empty: the provider's own endpoint
    project: str = ""
    location: str = ""
    api_key: str = ""
    credentials: str = ""  # adc | anonymous | path of a key file


def build(spec: ProviderSpec, clock: Clock) -> Provider:
    """The provider of a target. Connects to nothing yet."""
    if spec.provider == "embedded":
        return Embedded(clock)
    if spec.provider == "openai":
        return OpenAi(Http(spec.base_url or OPENAI_URL, clock), spec.model, spec.api_key)
    headers = header_source(spec.api_key, spec.credentials, clock)
    if spec.provider == "gemini":
        return GoogleRest(
            Http(spec.base_url or GEMINI_URL, clock), f"/v1beta/models/{spec.model}", spec.model, headers
        )
    resource = f"publishers/google/models/{spec.model}"
    if spec.project:  # without one: express mode, by API key alone
        resource = f"projects/{spec.project}/locations/{spec.location}/{resource}"
    return GoogleRest(
        Http(spec.base_url or vertex_url(spec.location), clock), f"/v1/{resource}", spec.model, headers
    )


def vertex_url(location: str) -> str:
    """The endpoint of a Vertex AI location; ``global`` and express mode have one without a prefix."""
    prefix = "" if location in ("", "global") else f"{location}-"
    return f"https://{prefix}aiplatform.googleapis.com"
