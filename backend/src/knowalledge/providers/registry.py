"""Models behind addresses, one dialect each; ``build`` makes the provider of a target."""

from ipaddress import ip_address
from urllib.parse import quote, urlsplit

from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.gateway.ports import Provider
from knowalledge.net.http.client import Http
from knowalledge.providers import gemini, openai, vertex
from knowalledge.providers.aiplatform import AiPlatform
from knowalledge.providers.credentials import headers_for
from knowalledge.providers.embedded.provider import Embedded
from knowalledge.providers.gemini import Gemini
from knowalledge.providers.openai import OpenAi
from knowalledge.providers.vertex import Vertex, resource


class ProviderSpec(Struct, frozen=True):
    """Where a target's model is, and who we are to it."""

    provider: str  # vertex | gemini | openai | embedded
    model: str
    base_url: str = ""  # empty: the provider's own endpoint
    project: str = ""
    location: str = ""
    api_key: str = ""
    credentials: str = ""  # adc | anonymous | path of a key file
    client: str = "rest"  # rest | aiplatform
    proxy: str = ""  # http://[user:password@]host:port; never used for loopback


def build(spec: ProviderSpec, clock: Clock) -> Provider:
    """The provider of a target. Connects to nothing yet. Raises ValueError for what cannot be an address."""
    if spec.provider == "embedded":
        return Embedded(clock)
    own = {"openai": openai.URL, "gemini": gemini.URL}.get(spec.provider) or vertex.url(spec.location)
    url = spec.base_url or own
    if spec.credentials == "anonymous" and not loopback(url):
        raise ValueError("anonymous credentials are for loopback only")
    proxy = "" if loopback(url) else spec.proxy
    http = Http(url, clock, proxy=proxy)
    if spec.provider == "openai":
        # OpenAI's newer models refuse the old name, and servers of other makers know no other.
        limit_name = "max_completion_tokens" if url == openai.URL else "max_tokens"
        return OpenAi(http, spec.model, spec.api_key, limit_name)
    headers = headers_for(spec.api_key, spec.credentials, clock, proxy=spec.proxy)
    model = quote(spec.model, safe="-._~@:/")
    if spec.provider == "gemini":
        return Gemini(http, model, headers)
    if spec.client == "aiplatform":
        return AiPlatform(url, resource(spec.model, spec.project, spec.location), headers, clock, proxy)
    return Vertex(http, model, quote(spec.project, safe=":"), quote(spec.location), headers)


def loopback(url: str) -> bool:
    """Whether an address is this machine's own."""
    host = urlsplit(url).hostname or ""
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
