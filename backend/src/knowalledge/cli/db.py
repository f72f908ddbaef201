"""``knowalledge db``: the tables, and the audit log that is in them."""

import sys

import click
import msgspec

from knowalledge.cli.common import config_option, fail, load_settings
from knowalledge.cli.directory import administration
from knowalledge.cli.manners import Group, example
from knowalledge.core.errors import DatabaseUnavailable
from knowalledge.identity import feature as identity
from knowalledge.identity.service.administration import MAX_PAGE
from knowalledge.net.sql.schema import SchemaError


@example("knowalledge db upgrade")
@click.group(cls=Group)
def db() -> None:
    """Make and change the tables of the database."""


@example("knowalledge db upgrade --config gateway.yaml")
@db.command()
@config_option
def upgrade(config: str) -> None:
    """Bring the tables up to date; safe to run again, and by several at once."""
    database = identity.open_database(load_settings(config).database_url)
    try:
        revision = identity.upgrade(database)
    except SchemaError as error:
        fail("database_url", error.wrong, error.cure)
        sys.exit(2)
    except DatabaseUnavailable as error:
        raise click.ClickException(error.message) from None
    finally:
        database.close()
    click.echo(f"the tables are those of {revision}")


@example("knowalledge db audit --after 100")
@db.command()
@config_option
@click.option("--after", default=0, help="Begin behind the line of this number.")
def audit(config: str, after: int) -> None:
    """Print the audit log, one JSON object a line: who did what, and how it was before and after."""
    with administration(config) as admin:
        while page := admin.acts(after, MAX_PAGE):
            for act in page:
                click.echo(msgspec.json.encode(act).decode())
            after = page[-1].number
