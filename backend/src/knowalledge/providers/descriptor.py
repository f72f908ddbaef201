"""What a provider declares about itself, so that configuration, documents and errors name none themselves."""

from collections.abc import Callable, Iterator
from ipaddress import ip_address
from typing import NamedTuple
from urllib.parse import urlsplit

from msgspec import Struct

from knowalledge.core.clock import Clock
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
    "model": "The provider's name for the model; default: the client's name.",
    "project": "Vertex: the Google Cloud project.",
    "location": "Vertex: the region, or global.",
    "base_url": "The address; default: the provider's own endpoint.",
    "api_key": "The provider's key.",
    "client": "Vertex: rest (the default), or aiplatform: Google's own, of the extra knowalledge[aiplatform].",
    "credentials": "adc, anonymous (loopback only), or the path of a key file.",
}


class SpecFault(NamedTuple):
    """A mistake in a ProviderSpec and its cure. ``field`` is empty where no single field is wrong."""

    field: str
    wrong: str
    cure: str


def _no_faults(_: ProviderSpec) -> Iterator[SpecFault]:
    yield from ()


class ProviderDescriptor(Struct, frozen=True):
    """One provider: its name, what its targets need, and how one is made.

    - ``create``: the provider at a base URL. Connects to nothing. Raises ValueError for values that cannot be sent.
    - ``default_url``: the provider's own endpoint, for specs without ``base_url``.
    - ``faults``: what is missing or contradictory in a spec, beyond what holds for every provider.
    - ``clients``: the values that ``client`` may have.
    - ``tokens``: what ``tpm`` and ``tpd`` count.
    - ``day_zone``: the IANA zone at whose midnight ``rpd`` and ``tpd`` begin anew; empty: a sliding day.
    - ``quota_note``: where ``tokens`` or ``day_zone`` differ from the default, the words that say so in the documents.
    """

    name: str
    create: Callable[[ProviderSpec, str, Clock], Provider]
    default_url: Callable[[ProviderSpec], str]
    faults: Callable[[ProviderSpec], Iterator[SpecFault]] = _no_faults
    clients: tuple[str, ...] = (REST,)
    tokens: Count = Count.TOKENS
    day_zone: str = ""
    quota_note: str = ""


def is_loopback(url: str) -> bool:
    """Whether an address is this machine's own; not so for one that cannot be parsed."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False


def proxy_for(url: str, proxy: str) -> str:
    """The proxy for calls to ``url``: none for loopback."""
    return "" if is_loopback(url) else proxy


def http_client(spec: ProviderSpec, url: str, clock: Clock) -> HttpClient:
    """A pooled client of ``url``, through the spec's proxy."""
    return HttpClient(url, clock, proxy=proxy_for(url, spec.proxy))
