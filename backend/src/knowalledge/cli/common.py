"""What several commands share."""

import sys

import click

from knowalledge.config.settings import Settings, SettingsError
from knowalledge.core.clock import SystemClock
from knowalledge.providers.targets import unusable_targets

config_option = click.option("--config", default="", help="The YAML file.")


def load_settings(config: str) -> Settings:
    """The settings in force. Prints every fault with its cure and exits with 2 if there is any."""
    try:
        settings = Settings.load(config=config)
        faults = list(unusable_targets(settings.models, settings.provider.proxy, SystemClock()))
    except SettingsError as error:
        faults = error.faults
    for fault in faults:
        fail(fault.key, fault.wrong, fault.cure)
    if faults:
        sys.exit(2)
    return settings


def fail(key: str, wrong: str, cure: str) -> None:
    """Print one fault with its cure."""
    click.echo(f"{key}: {wrong}\n    cure: {cure}", err=True)
