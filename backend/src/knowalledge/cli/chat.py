"""``knowalledge chat``."""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress

import click

from knowalledge.cli import client
from knowalledge.cli.answers import footer, stream, whole
from knowalledge.cli.client import AskError, Event, question_options
from knowalledge.cli.manners import example, json_option

HELP = "/new forgets the conversation, /quit or Ctrl-D ends, Ctrl-C stops an answer."


@example("knowalledge chat", "knowalledge chat --model gemini-2.5-flash --system 'Answer in one sentence.'")
@click.command()
@question_options
@json_option
def chat(
    server: str,
    key: str,
    model: str,
    system: str,
    priority: str | None,
    timeout: float | None,
    as_json: bool,
) -> None:
    """Talk with a model through a gateway.

    Lines that are piped in are asked one after the other. In the conversation, /new forgets it, /quit or Ctrl-D ends
    it, and Ctrl-C stops an answer.
    """
    common = {"model": model, "system": system, "priority": priority, "timeout_s": timeout}
    person = sys.stdin.isatty() and not as_json
    if person:
        with suppress(ImportError):
            import readline  # noqa: F401, PLC0415 - lines can be edited and called back; not every Python has it
        click.echo(click.style(HELP, dim=True))
    messages: list[dict[str, str]] = []
    failed = False
    for line in _lines(person):
        if line == "/new":
            messages = []
            continue
        messages.append({"role": "user", "content": line})
        answer = _answer(client.ask(server, key, common | {"messages": messages}), as_json, person)
        failed = answer is None
        if answer is None:
            messages.pop()
        else:
            messages.append({"role": "assistant", "content": answer})
    sys.exit(1 if failed and not person else 0)


def _lines(person: bool) -> Iterator[str]:
    """What is said, until the end of the input or /quit."""
    while True:
        try:
            line = input("> " if person else "").strip()
        except EOFError:
            if person:
                click.echo()
            return
        except KeyboardInterrupt:
            click.echo()
            if not person:
                return
            continue
        if line in ("/quit", "/exit"):
            return
        if line in ("/help", "/?"):
            click.echo(HELP)
        elif line:
            yield line


def _answer(events: Iterator[Event], as_json: bool, person: bool) -> str | None:
    """Print an answer; its text, or None if there is none to remember."""
    try:
        if as_json:
            answer = whole(events)
            click.echo(json.dumps(answer))
            return str(answer["text"])
        text, done = stream(events)
        if person:
            click.echo(click.style(footer(done), dim=True))
        return text
    except KeyboardInterrupt:
        click.echo(click.style("stopped", dim=True))
    except AskError as error:
        if as_json:
            click.echo(json.dumps({"error": dict(error.problem), "cure": error.cure}))
        else:
            error.show()
    return None
