"""Every provider, once; ``build`` makes the provider of a target.

To add one: a module with its ``ProviderDescriptor``, its place in ``PROVIDERS``, a test, and `make reference`.
"""

from collections.abc import Iterable, Iterator

from knowalledge.core.clock import Clock
from knowalledge.core.settings import REMOVE, Fault, write
from knowalledge.gateway.domain.passthrough import DialectName
from knowalledge.gateway.ports import Provider
from knowalledge.providers.descriptor import (
    REST,
    SPEC_KEYS,
    ProviderDescriptor,
    ProviderSpec,
    is_loopback,
)
from knowalledge.providers.embedded.provider import EMBEDDED
from knowalledge.providers.gemini import GEMINI
from knowalledge.providers.openai import OPENAI
from knowalledge.providers.vertex import VERTEX

PROVIDERS: dict[str, ProviderDescriptor] = {it.name: it for it in (VERTEX, GEMINI, OPENAI, EMBEDDED)}
# Every value of a target's `client:`.
CLIENTS = tuple(dict.fromkeys(client for it in PROVIDERS.values() for client in it.clients))


def build(spec: ProviderSpec, clock: Clock) -> Provider:
    """The provider of a target. Connects to nothing. Raises ValueError for values that cannot work."""
    descriptor = PROVIDERS[spec.provider]
    url = spec.base_url or descriptor.default_url(spec)
    if spec.credentials == "anonymous" and not is_loopback(url):
        raise ValueError("anonymous credentials are for loopback only")
    return descriptor.create(spec, url, clock)


def dialect_of(spec: ProviderSpec) -> DialectName | None:
    """The dialect in which a target takes and gives bodies as they are; None if it has none."""
    return PROVIDERS[spec.provider].dialect if spec.client == REST else None


def semconv_name(provider: str) -> str:
    """The value of OpenTelemetry's ``gen_ai.provider.name`` for a provider."""
    return PROVIDERS[provider].semconv_name or provider


def faults(spec: ProviderSpec) -> Iterator[Fault]:
    """The mistakes in a spec that can be seen without a call; of an unknown provider, only those common to all."""
    if spec.credentials == "anonymous" and not is_loopback(spec.base_url):
        steps = write("base_url: http://127.0.0.1:9900")
        yield Fault("credentials", "anonymous is for loopback only", "set a loopback base_url", steps)
    descriptor = PROVIDERS.get(spec.provider)
    if descriptor is not None:
        yield from descriptor.faults(spec)
    if spec.client != REST and (descriptor is None or spec.client not in descriptor.clients):
        names = listed((it.name for it in PROVIDERS.values() if spec.client in it.clients), "and")
        yield Fault("client", f"{spec.client} is for {names} only", "drop it, or write rest", REMOVE)


def listed(words: Iterable[str], last: str) -> str:
    """Words as a list within a sentence: ``a, b or c``."""
    *first, final = words
    return f"{', '.join(first)} {last} {final}" if first else final


# The keys of a target that make its ProviderSpec, for the documents; what its quota counts where that differs.
TARGET_KEYS = {"provider": f"{listed(PROVIDERS, 'or')}.", **SPEC_KEYS}
QUOTA_NOTES = "".join(f"; with {it.name} {it.quota_note}" for it in PROVIDERS.values() if it.quota_note)
