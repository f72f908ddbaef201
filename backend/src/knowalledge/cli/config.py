"""``knowalledge config check`` and ``config show``."""

from urllib.parse import urlsplit, urlunsplit

import click

from knowalledge.cli.common import load_settings
from knowalledge.config.settings import SETTINGS

_path = click.option("--config", "path", default="", help="The YAML file.")


@click.group()
def config() -> None:
    """Check and show the configuration."""


@config.command()
@_path
def check(path: str) -> None:
    """Validate everything; print every fault with its cure; exit 2 on any."""
    settings = load_settings(path)
    click.echo(f"no fault found: {len(settings.models)} models")


@config.command()
@_path
def show(path: str) -> None:
    """What is in force, secrets masked, and where each value came from."""
    settings = load_settings(path)
    for setting in SETTINGS:
        value = setting.value_in(settings)
        shown = masked(value) if setting.secret else value
        click.echo(f"{setting.key} = {shown}    # {settings.origins[setting.key]}")
    for model in settings.models:
        for target in model.targets:
            key = "***" if target.spec.api_key else ""
            quota = ", ".join(f"{it.name}={it.limit}" for it in target.windows) or "unlimited"
            click.echo(
                f"models.{model.name}.{target.name} = {target.spec.provider}:{target.spec.model} "
                f"tier={target.tier} quota=({quota}) api_key={key}    # {settings.origins['models']}"
            )


def masked(secret: str) -> str:
    """A URL without its credentials and query; nothing of any other secret."""
    if "://" not in secret:
        return "***" if secret else ""
    parts = urlsplit(secret)
    host = parts.netloc.rpartition("@")[2]
    netloc = f"***@{host}" if "@" in parts.netloc else host
    return urlunsplit(parts._replace(netloc=netloc, query="***" if parts.query else ""))
