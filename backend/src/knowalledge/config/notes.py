"""What is allowed in a configuration, and probably not meant."""

from collections.abc import Iterator

from knowalledge.config.places import located
from knowalledge.config.settings import Settings
from knowalledge.core.settings import Edit, Fault, Step, write
from knowalledge.providers.embedded.provider import EMBEDDED


def notes(settings: Settings) -> list[Fault]:
    """Each with its place and what to paste, as a fault has."""
    return located(list(_notes(settings)), settings.file, settings.lines, {})


def _notes(settings: Settings) -> Iterator[Fault]:
    if settings.file and settings.origins["models"] != settings.file:
        wrong = "names no model" if settings.lines else "is empty"
        cure = "the small built-in model answers; name your own"
        steps = (Step(Edit.RUN, f"knowalledge init --output {settings.file} --force"),)
        yield Fault(settings.file, wrong, cure, () if settings.lines else steps, settings.file, 1)
    for model in settings.models:
        for index, target in enumerate(model.targets):
            if not target.windows and target.spec.provider != EMBEDDED.name:
                key = f"models.{model.name}.targets[{index}]"
                cure = "requests are sent without a limit; write your project's limits, or quota: learn"
                yield Fault(key, "has no quota", cure, write("quota: {rpm: 60, tpm: 60000}"))
