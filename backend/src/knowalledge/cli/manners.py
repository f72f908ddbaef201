"""What every command has: full sentences in its help, an example, ``-h``, and colours on a terminal only."""

import os
import sys
from collections.abc import Callable
from typing import TypeVar

import click

C = TypeVar("C", bound=click.Command)
MAX_WIDTH = 110  # columns of a help page, on a terminal that has them


def colour() -> bool | None:
    """For click: True and False decide, None leaves it to whether the stream is a terminal (no-color.org)."""
    if os.environ.get("NO_COLOR"):
        return False
    return True if os.environ.get("FORCE_COLOR") else None


def example(*lines: str) -> Callable[[C], C]:
    """Adds an example to a command's help: command lines that work as they stand."""

    def add(command: C) -> C:
        command.epilog = "\b\nExample:\n" + "\n".join(f"  {it}" for it in lines)
        return command

    return add


class Group(click.Group):
    """A group whose help shows the whole summary of each command."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        rows = [(name, self.summary(ctx, name)) for name in self.list_commands(ctx)]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def summary(self, ctx: click.Context, name: str) -> str:
        """One sentence about a command."""
        command = self.get_command(ctx, name)
        return command.get_short_help_str(limit=1000) if command else ""


# Of the whole command line; inner commands inherit them.
CONTEXT = {
    "color": colour(),
    "help_option_names": ["-h", "--help"],
    "max_content_width": MAX_WIDTH,
}


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def plain(text: str) -> str:
    """Text from elsewhere for a terminal: without what moves the cursor or changes colours."""
    return "".join(it for it in text if it in "\n\t" or it.isprintable())


json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")
