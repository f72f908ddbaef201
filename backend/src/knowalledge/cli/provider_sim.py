"""``knowalledge provider-sim``."""

import os
import sys

import click


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
)
@click.pass_context
def provider_sim(context: click.Context) -> None:
    """A strict provider for tests and benchmarks; --help lists its knobs."""
    # It runs on asyncio, which a patched process would slow down: in this process' place, not inside it.
    os.execv(sys.executable, [sys.executable, "-m", "knowalledge_simulator", *context.args])  # nosec B606
