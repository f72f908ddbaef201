"""What the commands about tenants, users and keys share: they work on the database, without a server."""

import getpass
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import click
import msgspec

from knowalledge.cli.common import config_option, fail, load_settings
from knowalledge.core.clock import SystemClock
from knowalledge.core.errors import KnowalledgeError
from knowalledge.identity.feature import open_administration, open_database, prepare
from knowalledge.identity.service.administration import MAX_PAGE, Administration
from knowalledge.net.sql.schema import SchemaError

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON object a line.")
tenant_option = click.option("--tenant", default="default", show_default=True, help="The tenant's name.")

__all__ = ["actor", "administration", "config_option", "json_option", "pages", "show", "tenant_option"]


@contextmanager
def administration(config: str) -> Iterator[Administration]:
    """The use cases of admins. Prints what fails, and exits with 1 or, for the configuration, with 2."""
    settings = load_settings(config)
    database = open_database(settings.database_url)
    try:
        prepare(database)
        yield open_administration(settings.auth, database, SystemClock())
    except SchemaError as error:
        fail("database_url", error.wrong, error.cure)
        sys.exit(2)
    except KnowalledgeError as error:
        raise click.ClickException(error.message) from None
    finally:
        database.close()


def actor() -> str:
    """Who acts, for the audit log: the operating system's user."""
    try:
        return f"command line: {getpass.getuser()}"
    except (OSError, KeyError):  # a container's user may have no name
        return "command line"


def pages(read: Callable[[str], tuple[Any, ...]], name: Callable[[Any], str]) -> Iterator[Any]:
    """Everything that ``read`` gives page by page, from the entry that follows a name."""
    after = ""
    while page := read(after):
        yield from page
        if len(page) < MAX_PAGE:
            return
        after = name(page[-1])


def show(values: Iterable[Any], as_json: bool, columns: tuple[str, ...]) -> None:
    """Values as JSON, or as a table of some of their fields."""
    if as_json:
        for it in values:
            click.echo(msgspec.json.encode(it).decode())
        return
    rows = [columns, *(tuple(_text(it, column) for column in columns) for it in values)]
    widths = [max(len(row[index]) for row in rows) for index in range(len(columns))]
    for row in rows:
        line = "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))
        click.echo(line.rstrip())


def _text(value: Any, column: str) -> str:
    cell = getattr(value, column, None)
    if cell is None and hasattr(value, "grant"):
        cell = getattr(value.grant, column, None)
    if cell is None:
        return "-"
    if column.endswith("_at"):
        return datetime.fromtimestamp(cell, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return str(cell)
