"""``knowalledge config check`` and ``config show``."""

import click

from knowalledge.cli.common import config_option, load_settings, report, told
from knowalledge.cli.manners import Group, example, json_option
from knowalledge.config.document import as_json as settings_as_json
from knowalledge.config.document import document
from knowalledge.config.notes import notes


@example("knowalledge config check --config gateway.yaml")
@click.group(cls=Group)
def config() -> None:
    """Check and show the configuration."""


@example("knowalledge config check --config gateway.yaml")
@config.command()
@config_option
@json_option
def check(config: str, as_json: bool) -> None:
    """Validate everything; print every fault with its place and its cure; exit 2 on any."""
    settings = load_settings(config, as_json=as_json)
    remarks = notes(settings)
    models, targets = len(settings.models), len(settings.targets)
    plural = "s" if models > 1 else ""
    summary = f"no fault found: {models} model{plural}, {targets} target{'s' if targets > 1 else ''}"
    if as_json:
        click.echo(told([], remarks))
        return
    report(remarks, "yellow")
    click.echo(click.style(summary, fg="green"))


@example("knowalledge config show --config gateway.yaml")
@config.command()
@config_option
@json_option
def show(config: str, as_json: bool) -> None:
    """Print what is in force as YAML, secrets masked, and where each value came from."""
    settings = load_settings(config, as_json=as_json)
    if as_json:
        click.echo(settings_as_json(settings))
        return
    for line in document(settings):
        text, mark, origin = line.partition("    # ")
        name, colon, value = text.partition(":")
        click.echo(f"{click.style(name, fg='cyan')}{colon}{value}{click.style(mark + origin, dim=True)}")
