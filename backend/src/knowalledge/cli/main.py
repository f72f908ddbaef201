"""The command line. Each command group has a file beside this one, and a row here."""

import knowalledge.patched  # noqa: F401 - before anything else

# isort: split
from importlib import import_module

import click

# Its module is imported when a command is run: what one needs, the others do not wait for. By name: summary.
COMMANDS = {
    "config": "Check and show the configuration.",
    "db": "Make and change the tables of the database.",
    "doctor": "Check everything that the gateway needs; exit 1 if any of it is down.",
    "keys": "Make, list, rotate and revoke API keys.",
    "openapi": "Print the OpenAPI document.",
    "plan": "Simulate what the quota does to a trace of requests.",
    "provider-sim": "A strict provider for tests and benchmarks; --help lists its knobs.",
    "reference": "Write the reference pages of the documentation into FOLDER.",
    "serve": "Serve; prints one line when ready.",
    "tenants": "Make, list, weigh and disable tenants.",
    "users": "Make, list and disable users.",
    "warm": "Fill the caches with every topic in FILE, one a line; resumable.",
}


class _Commands(click.Group):
    """The commands of ``COMMANDS``: ``NAME`` is ``knowalledge.cli.NAME.NAME``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"knowalledge.cli.{name}"), name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002 - click's
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group(cls=_Commands)
def main() -> None:
    """A quota-aware LLM gateway."""
