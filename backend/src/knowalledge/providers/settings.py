"""Settings of the models that clients may name, and of calls to their providers."""

from dataclasses import dataclass

from msgspec import Struct

from knowalledge.core.parsers import address
from knowalledge.core.settings import setting
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.quota.domain.window import Window


@dataclass(frozen=True)
class ProviderSettings:
    """``provider.*``"""

    proxy: str = setting(
        address("http://user:password@host:3128", "http"),
        "",
        "HTTP proxy for provider calls; not used for loopback.",
        secret=True,
    )


class TargetSettings(Struct, frozen=True):
    """One provider endpoint that serves a model."""

    name: str  # unique over all models
    spec: ProviderSpec
    tier: int = 0  # lower tiers are tried first
    windows: tuple[Window, ...] = ()  # its quota; none: unlimited


class ModelSettings(Struct, frozen=True):
    """A model that clients may name."""

    name: str
    targets: tuple[TargetSettings, ...]
    fallback: tuple[str, ...] = ()  # other models, when no target can take a request in time
    price: tuple[float, float] | None = None  # USD per million tokens, input and output
