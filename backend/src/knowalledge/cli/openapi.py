"""``knowalledge openapi``."""

import click
import msgspec

from knowalledge.app import create_app
from knowalledge.cli.manners import example
from knowalledge.config.settings import Settings


@example("knowalledge openapi > openapi.json")
@click.command()
def openapi() -> None:
    """Print the OpenAPI document."""
    click.echo(rendered(), nl=False)


def rendered() -> bytes:
    """The document that every gateway serves, as ``docs/openapi.json`` has it."""
    served = create_app(Settings.load(environ={})).test_client().get("/api/openapi.json")
    document: bytes = msgspec.json.format(served.data, indent=1)
    return document + b"\n"
