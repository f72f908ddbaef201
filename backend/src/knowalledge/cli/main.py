"""The command line. Each command has a file beside this one, and a row here.

Its module is imported when it runs: what one needs, the others do not wait for, and `--version` waits for none.
"""

from importlib import import_module

import click

from knowalledge import __version__
from knowalledge.cli.manners import CONTEXT, Group, example

# By name: summary.
COMMANDS = {
    "ask": "Ask a gateway one question; the answer streams to standard output.",
    "chat": "Talk with a model through a gateway.",
    "completion": "Print the script that completes commands and options in your shell.",
    "config": "Check and show the configuration.",
    "db": "Make and change the tables of the database.",
    "doctor": "Check everything that the gateway needs; exit 1 if any of it is down.",
    "init": "Write a gateway.yaml from five questions, and check it.",
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
# They only talk to a gateway or print, with the standard library as it is.
UNPATCHED = frozenset(("ask", "chat", "completion", "provider-sim"))


class _Commands(Group):
    """The commands of ``COMMANDS``: ``NAME`` is ``knowalledge.cli.NAME.NAME``."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002 - click's
        if cmd_name not in COMMANDS:
            return None
        if cmd_name not in UNPATCHED:
            import knowalledge.patched  # noqa: F401, PLC0415 - before anything that the command imports
        name = cmd_name.replace("-", "_")
        command: click.Command = getattr(import_module(f"knowalledge.cli.{name}"), name)
        return command

    def summary(self, ctx: click.Context, name: str) -> str:  # noqa: ARG002 - the group's
        return COMMANDS[name]


@example(
    "knowalledge serve                        # the built-in model on http://127.0.0.1:8080",
    'knowalledge ask "What is a glacier?"     # in another terminal',
    "knowalledge init                         # your own models and quota",
)
@click.group(cls=_Commands, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="knowalledge", message="%(prog)s %(version)s")
def main() -> None:
    """A quota-aware gateway in front of LLM providers."""
