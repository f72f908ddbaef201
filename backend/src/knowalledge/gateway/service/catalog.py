"""The models that clients may name, and the targets that serve them."""

from collections.abc import Mapping
from difflib import get_close_matches

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.errors import UnknownModel
from knowalledge.gateway.domain.passthrough import DialectName
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.ports import Provider

# How Google's clients begin a model's name, also those of its OpenAI-compatible API.
_PREFIXES = ("google/", "publishers/google/", "models/")
# Longer names are cut before they are compared, in characters: the comparison is quadratic.
_COMPARED = 200


class Target(Struct, frozen=True):
    """One address at which a model can be called, with its own quota. A lower ``tier`` is called first."""

    name: str
    tier: int
    provider: Provider
    dialect: DialectName | None = None  # in which it takes and gives bodies as they are

    def prompt_for(self, prompt: Prompt) -> Prompt:
        """The prompt as this target takes it: the client's own body only where it speaks that dialect."""
        source = prompt.source
        return prompt if source is None or source.dialect == self.dialect else replace(prompt, source=None)


class ModelRoutes(Struct, frozen=True):
    """A model that clients may name: its targets, and the models that answer when none of them can in time."""

    name: str
    targets: tuple[Target, ...]
    fallback: tuple[str, ...] = ()


def plain_name(name: str) -> str:
    """A model's name without what Google's clients put before it."""
    for prefix in _PREFIXES:
        name = name.removeprefix(prefix)
    return name


class ModelCatalog(Struct, frozen=True):
    """Every model by its name, in the order of the configuration."""

    models: Mapping[str, ModelRoutes]
    default: str

    def resolve(self, name: str) -> ModelRoutes:
        """The model of this name; empty: the default. Raises ``UnknownModel`` with the nearest known name."""
        routes = self.models.get(name or self.default)
        if routes is None:
            routes = self.models.get(plain_name(name))
        if routes is None:
            nearest = get_close_matches(name[:_COMPARED], list(self.models), n=1, cutoff=0.0)
            hint = f"; the nearest known one is {nearest[0]!r}" if nearest else ""
            raise UnknownModel(f"unknown model{hint}", param="model")
        return routes

    def chain(self, name: str) -> tuple[ModelRoutes, ...]:
        """The model and its fallbacks, in the order in which they are tried. Raises ``UnknownModel``."""
        routes = self.resolve(name)
        return (routes, *(self.models[it] for it in routes.fallback)) if routes.fallback else (routes,)

    def speaks(self, name: str, dialect: DialectName) -> bool:
        """Whether a target that may answer for this model takes bodies of this dialect as they are."""
        if (name or self.default) not in self.models and plain_name(name) not in self.models:
            return False
        return any(target.dialect == dialect for routes in self.chain(name) for target in routes.targets)

    def label(self, name: str) -> str:
        """The model's name for metrics and logs; ``unknown`` for one that only a caller knows."""
        name = name or self.default
        if name not in self.models:
            name = plain_name(name)
        return name if name in self.models else "unknown"
