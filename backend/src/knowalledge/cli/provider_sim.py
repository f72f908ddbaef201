"""``knowalledge provider-sim``."""

import os
import sys

import click

# In this process' place, not inside it, and under the name that was typed.
_RUN = "from knowalledge_simulator.__main__ import main; main(prog_name='knowalledge provider-sim')"


@click.command(
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
    add_help_option=False,
    epilog="\b\nExample:\n  knowalledge provider-sim --bind 127.0.0.1:9900 --rpm 120 --tpm 60000",
)
@click.pass_context
def provider_sim(context: click.Context) -> None:
    """A strict provider for tests and benchmarks; --help lists its knobs."""
    os.execv(sys.executable, [sys.executable, "-c", _RUN, *context.args])  # nosec B606
