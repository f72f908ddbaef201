"""``knowalledge ask``."""

import json
import sys

import click

from knowalledge.cli import client
from knowalledge.cli.answers import footer, stream, whole
from knowalledge.cli.client import AskError, question_options
from knowalledge.cli.manners import example, json_option


@example(
    'knowalledge ask "What is a glacier?"',
    'knowalledge ask --priority low --json "Name three rivers."',
    'cat README.md | knowalledge ask "Summarize this:" -',
)
@click.command()
@click.argument("question", nargs=-1)
@question_options
@json_option
def ask(
    question: tuple[str, ...],
    server: str,
    key: str,
    model: str,
    system: str,
    priority: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Ask a gateway one QUESTION; the answer streams to standard output.

    A dash stands for what is piped in. While you wait for quota, your place and the expected wait are shown.
    """
    prompt = _prompt(question)
    body = {"prompt": prompt, "model": model, "system": system, "priority": priority, "timeout_s": timeout}
    events = client.ask(server, key, body)
    if not as_json:
        _, done = stream(events)
        if sys.stderr.isatty():
            click.echo(click.style(footer(done), dim=True), err=True)
        return
    try:
        click.echo(json.dumps(whole(events), indent=1))
    except AskError as error:
        click.echo(json.dumps({"error": dict(error.problem), "cure": error.cure}, indent=1))
        sys.exit(1)


def _prompt(words: tuple[str, ...]) -> str:
    """The question; a dash, or nothing at all where something is piped in, stands for standard input."""
    if not words and not sys.stdin.isatty():
        words = ("-",)
    piped = sys.stdin.read().strip() if "-" in words else ""
    prompt = " ".join(f"\n\n{piped}\n\n" if it == "-" else it for it in words).strip()
    if not prompt:
        raise click.UsageError('write a question: knowalledge ask "What is a glacier?"')
    return prompt
