"""``knowalledge users``."""

import click

from knowalledge.cli.directory import (
    actor,
    administration,
    config_option,
    json_option,
    pages,
    show,
    tenant_option,
)
from knowalledge.cli.manners import Group, example
from knowalledge.identity.domain.principals import Grant, LevelName, RoleName

_COLUMNS = ("tenant", "name", "role", "max_priority", "created_at", "disabled_at")
_name = click.argument("name")


@example("knowalledge users create --tenant acme ann")
@click.group(cls=Group)
def users() -> None:
    """Make, list and disable users."""


@example("knowalledge users create --tenant acme --role operator ann")
@users.command()
@config_option
@tenant_option
@click.option(
    "--role",
    type=click.Choice(["readonly", "user", "operator", "admin"]),
    default="user",
    show_default=True,
    help="Operators and admins are staff of the whole gateway.",
)
@click.option("--model", "models", multiple=True, help="It may use this model only; may be repeated.")
@click.option("--path", "paths", multiple=True, help="It may call paths that begin so only; may be repeated.")
@click.option(
    "--max-priority",
    type=click.Choice(["critical", "high", "medium", "low"]),
    help="The most urgent that it may claim; by default high.",
)
@_name
def create(
    config: str,
    tenant: str,
    role: RoleName,
    models: tuple[str, ...],
    paths: tuple[str, ...],
    max_priority: LevelName | None,
    name: str,
) -> None:
    """Make the user NAME of a tenant."""
    with administration(config) as admin:
        grant = Grant(role=role, max_priority=max_priority, models=models, paths=paths)
        admin.create_user(actor(), tenant, name, grant)
    click.echo(f"user {tenant}/{name} is made")


@example("knowalledge users list --tenant acme")
@users.command("list")
@config_option
@tenant_option
@json_option
def list_(config: str, tenant: str, as_json: bool) -> None:
    """List the users of a tenant."""
    with administration(config) as admin:
        show(pages(lambda after: admin.users(tenant, after), lambda it: it.name), as_json, _COLUMNS)


@example("knowalledge users disable --tenant acme ann")
@users.command()
@config_option
@tenant_option
@_name
def disable(config: str, tenant: str, name: str) -> None:
    """No key of the user NAME counts any more."""
    with administration(config) as admin:
        admin.disable_user(actor(), tenant, name)
    click.echo(f"user {tenant}/{name} is disabled")
