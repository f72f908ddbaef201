"""``knowalledge tenants``."""

import click

from knowalledge.cli.directory import actor, administration, config_option, json_option, pages, show
from knowalledge.cli.manners import Group, example

_COLUMNS = ("name", "weight", "created_at", "disabled_at")
_name = click.argument("name")


@example("knowalledge tenants create acme")
@click.group(cls=Group)
def tenants() -> None:
    """Make, list, weigh and disable tenants."""


@example("knowalledge tenants create acme")
@tenants.command()
@config_option
@click.option("--weight", default=1.0, show_default=True, help="Its part of a fair share.")
@_name
def create(config: str, weight: float, name: str) -> None:
    """Make the tenant NAME."""
    with administration(config) as admin:
        admin.create_tenant(actor(), name, weight)
    click.echo(f"tenant {name} is made")


@example("knowalledge tenants list --json")
@tenants.command("list")
@config_option
@json_option
def list_(config: str, as_json: bool) -> None:
    """List tenants."""
    with administration(config) as admin:
        show(pages(admin.tenants, lambda it: it.name), as_json, _COLUMNS)


@example("knowalledge tenants weight acme 2")
@tenants.command()
@config_option
@_name
@click.argument("value", type=float)
def weight(config: str, name: str, value: float) -> None:
    """Make VALUE the part of the tenant NAME in a fair share."""
    with administration(config) as admin:
        admin.set_weight(actor(), name, value)
    click.echo(f"tenant {name} has the weight {value:g}")


@example("knowalledge tenants disable acme")
@tenants.command()
@config_option
@_name
def disable(config: str, name: str) -> None:
    """No key of the tenant NAME counts any more."""
    with administration(config) as admin:
        admin.disable_tenant(actor(), name)
    click.echo(f"tenant {name} is disabled")
