"""What a provider declares about itself. Configuration, documentation and error messages are made from this."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from urllib.parse import urlsplit

from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.settings import Fault
from knowalledge.gateway.domain.passthrough import DialectName
from knowalledge.gateway.ports import Provider
from knowalledge.net.http.client import HttpClient
from knowalledge.quota.domain.window import Count

REST = "rest"


class ProviderSpec(Struct, frozen=True):
    """Which model a target calls, where, and with which credentials. Empty: not set."""

    provider: str = ""
    model: str = ""
    base_url: str = ""  # empty: the provider's own endpoint
    project: str = ""
    location: str = ""
    api_key: str = ""
    credentials: str = ""  # adc | anonymous | path of a key file
    client: str = REST
    proxy: str = ""  # http://[user:password@]host:port; not a target's setting; never used for loopback


# The keys of a target's settings that make its ProviderSpec; registry.py adds `provider`.
SPEC_KEYS = {
    "model": "The model's name at the provider; default: the name that clients use.",
    "project": "Vertex: the Google Cloud project.",
    "location": "Vertex: the region, or global.",
    "base_url": "Base URL of the API; default: the provider's own endpoint.",
    "api_key": "The API key.",
    "client": "Vertex: rest (default), or aiplatform: Google's gRPC library, from the extra knowalledge[aiplatform].",
    "credentials": "adc (application default credentials), anonymous (loopback only), or the path of a key file.",
}


def _no_faults(_: ProviderSpec) -> Iterator[Fault]:
    yield from ()


class ProviderDescriptor(Struct, frozen=True):
    """One provider: its name, what its targets need, and how one is made.

    - ``create``: the provider at a base URL. Connects to nothing. Raises ValueError for values that cannot be sent.
    - ``default_url``: the provider's own endpoint, for specs without ``base_url``.
    - ``faults``: the mistakes in a spec that only this provider knows. Their key is a field of the spec, or empty where
      no single field is wrong.
    - ``clients``: the values that ``client`` may have.
    - ``semconv_name``: the value of OpenTelemetry's ``gen_ai.provider.name``; empty: ``name``.
    - ``tokens``: what ``tpm`` and ``tpd`` count.
    - ``day_zone``: the IANA zone at whose midnight ``rpd`` and ``tpd`` are reset; empty: a sliding day.
    - ``dialect``: the one in which its REST client takes and gives bodies as they are.
    - ``demonstration``: its model shows how the gateway works; it is too small for the knowledge API's whole prompts.
    - ``quota_note``: the half-sentence of the documentation about ``tokens`` and ``day_zone``, if they are not default.
    """

    name: str
    create: Callable[[ProviderSpec, str, Clock], Provider]
    default_url: Callable[[ProviderSpec], str]
    faults: Callable[[ProviderSpec], Iterator[Fault]] = _no_faults
    clients: tuple[str, ...] = (REST,)
    semconv_name: str = ""
    tokens: Count = Count.TOKENS
    day_zone: str = ""
    quota_note: str = ""
    dialect: DialectName | None = None
    demonstration: bool = False


def is_loopback(url: str) -> bool:
    """Whether a URL's host is this machine; False for a URL that cannot be parsed."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(url: str, proxy: str) -> str:
    """The proxy to use for ``url``: none for loopback."""
    return "" if is_loopback(url) else proxy


def http_client(spec: ProviderSpec, url: str, clock: Clock) -> HttpClient:
    """A pooled client for ``url``, through the spec's proxy. Raises ValueError for a malformed URL."""
    return HttpClient(url, clock, proxy=proxy_for(url, spec.proxy))
