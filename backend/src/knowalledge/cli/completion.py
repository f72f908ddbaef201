"""``knowalledge completion``."""

import click
from click.shell_completion import get_completion_class

from knowalledge.cli.manners import example


@example(
    'eval "$(knowalledge completion bash)"                  # in ~/.bashrc',
    'eval "$(knowalledge completion zsh)"                   # in ~/.zshrc',
    "knowalledge completion fish | source                   # in ~/.config/fish/config.fish",
)
@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print the script that completes commands and options in SHELL."""
    kind = get_completion_class(shell)
    if kind is None:
        raise click.ClickException(f"no completion for {shell}")
    made = kind(context.find_root().command, {}, "knowalledge", "_KNOWALLEDGE_COMPLETE")
    click.echo(made.source())
