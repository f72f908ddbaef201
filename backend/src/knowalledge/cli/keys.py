"""``knowalledge keys``: the key itself is printed once, alone on standard output."""

from collections.abc import Callable

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
from knowalledge.core.parsers import duration, duration_or_zero
from knowalledge.identity.domain.principals import Grant, LevelName, RoleName

_id = click.argument("key_id")
_COLUMNS = ("id", "tenant", "user", "label", "role", "created_at", "expires_at", "revoked_at", "used_at")


@example(
    "knowalledge keys create --tenant acme --user ann --expires 90d", "knowalledge keys list --tenant acme"
)
@click.group(cls=Group)
def keys() -> None:
    """Make, list, rotate and revoke API keys."""


@example("knowalledge keys create --tenant acme --user ann --label laptop --expires 90d")
@keys.command()
@config_option
@tenant_option
@click.option("--user", default="default", show_default=True, help="The user's name; made if it is new.")
@click.option(
    "--role",
    type=click.Choice(["readonly", "user", "operator", "admin"]),
    help="Of a new user (by default user); a key of one that is there may have less.",
)
@click.option("--label", default="", help="What it is for.")
@click.option("--expires", default="", help="How long it counts, such as 90d; by default for ever.")
@click.option("--model", "models", multiple=True, help="It may use this model only; may be repeated.")
@click.option("--path", "paths", multiple=True, help="It may call paths that begin so only; may be repeated.")
@click.option(
    "--max-priority",
    type=click.Choice(["critical", "high", "medium", "low"]),
    help="The most urgent that it may claim; by default high.",
)
def create(
    config: str,
    tenant: str,
    user: str,
    role: RoleName | None,
    label: str,
    expires: str,
    models: tuple[str, ...],
    paths: tuple[str, ...],
    max_priority: LevelName | None,
) -> None:
    """Make a key, with its user and tenant if need be; prints it, and never again."""
    lifetime_s = _seconds(duration, expires, "--expires") if expires else None
    with administration(config) as admin:
        admin.ensure_user(actor(), tenant, user, role)
        grant = Grant(role=role, max_priority=max_priority, models=models, paths=paths)
        issued = admin.create_key(actor(), tenant, user, label=label, grant=grant, lifetime_s=lifetime_s)
    click.echo(f"key {issued.key.id} of {tenant}/{user}; it is shown only now", err=True)
    click.echo(issued.text)


@example("knowalledge keys list --tenant acme --json")
@keys.command("list")
@config_option
@click.option("--tenant", default="", help="Only of this tenant.")
@click.option("--user", default="", help="Only of this user.")
@json_option
def list_(config: str, tenant: str, user: str, as_json: bool) -> None:
    """List keys, without the keys themselves."""
    with administration(config) as admin:
        show(pages(lambda after: admin.keys(tenant, user, after), lambda it: it.id), as_json, _COLUMNS)


@example("knowalledge keys rotate --overlap 1h KEY_ID")
@keys.command()
@config_option
@click.option("--overlap", default="24h", show_default=True, help="How long the old key still counts.")
@_id
def rotate(config: str, overlap: str, key_id: str) -> None:
    """Make a key that replaces KEY_ID; prints it, and never again."""
    overlap_s = _seconds(duration_or_zero, overlap, "--overlap")
    with administration(config) as admin:
        issued = admin.rotate_key(actor(), key_id, overlap_s)
    click.echo(f"key {issued.key.id} replaces {key_id}; it is shown only now", err=True)
    click.echo(issued.text)


@example("knowalledge keys revoke KEY_ID")
@keys.command()
@config_option
@_id
def revoke(config: str, key_id: str) -> None:
    """KEY_ID does not count any more, in any replica, within a second."""
    with administration(config) as admin:
        admin.revoke_key(actor(), key_id)
    click.echo(f"key {key_id} is revoked")


def _seconds(parse: Callable[[object], float], text: str, option: str) -> float:
    try:
        return parse(text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint=option) from None
