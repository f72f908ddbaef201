"""The providers of all targets."""

from collections.abc import Iterator, Mapping, Sequence

from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.core.settings import Fault
from knowalledge.gateway.ports import Provider
from knowalledge.gateway.service.catalog import ModelRoutes, Target
from knowalledge.providers import registry
from knowalledge.providers.settings import ModelSettings, TargetSettings


def make_provider(target: TargetSettings, proxy: str, clock: Clock) -> Provider:
    """The provider of a target. Connects to nothing yet. Raises ValueError for values that cannot be sent."""
    return registry.build(replace(target.spec, proxy=proxy), clock)


def make_routes(models: Sequence[ModelSettings], proxy: str, clock: Clock) -> Mapping[str, ModelRoutes]:
    """Each model by its name, with a provider for each target. Raises ValueError as ``make_provider`` does."""
    return {
        model.name: ModelRoutes(
            model.name,
            tuple(
                Target(it.name, it.tier, make_provider(it, proxy, clock), registry.dialect_of(it.spec))
                for it in model.targets
            ),
            model.fallback,
        )
        for model in models
    }


def is_demonstration(model: ModelSettings) -> bool:
    """Whether only demonstration models serve it."""
    return all(registry.PROVIDERS[it.spec.provider].demonstration for it in model.targets)


def unusable_targets(models: Sequence[ModelSettings], proxy: str, clock: Clock) -> Iterator[Fault]:
    """A fault for each target that has an address, a key or credentials that cannot be used."""
    for model in models:
        for index, target in enumerate(model.targets):
            try:
                make_provider(target, proxy, clock).close()
            except ValueError as error:
                key = f"models.{model.name}.targets[{index}]"
                cure = "correct the target, then try `knowalledge doctor`"
                if target.spec.api_key and "header" in str(error):
                    key, cure = f"{key}.api_key", "copy it again, on one line and without blanks"
                yield Fault(key, str(error), cure)
