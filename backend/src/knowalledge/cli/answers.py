"""An answer on its way to a terminal or a pipe: the text as it comes, and while it waits its place and its ETA."""

import sys
from collections.abc import Iterable

import click

from knowalledge.cli.client import Event
from knowalledge.cli.manners import is_terminal, plain

CLEAR = "\r\x1b[K"  # to the beginning of the line, and away with the rest


def stream(events: Iterable[Event]) -> tuple[str, Event]:
    """Print an answer as it comes; the whole text and the last event."""
    parts: list[str] = []
    last, waiting = Event("", {}), Waiting()
    try:
        for last in events:
            if last.name == "queued":
                waiting.show(_wait(last))
            elif last.name == "started":
                waiting.show("asking the model ...")
            elif last.name == "delta":
                waiting.clear()
                parts.append(last.data["text"])
                # click would take colours out of what goes to a file, too.
                sys.stdout.write(plain(parts[-1]) if is_terminal() else parts[-1])
                sys.stdout.flush()
    finally:
        waiting.clear()
    text = "".join(parts)
    if not text.endswith("\n"):
        click.echo()
    return text, last


def whole(events: Iterable[Event]) -> dict[str, object]:
    """The answer as one object: the last event's, and the text."""
    parts: list[str] = []
    last = Event("", {})
    for last in events:
        parts.append(last.data.get("text", "") if last.name == "delta" else "")
    return {**last.data, "text": "".join(parts)}


def footer(done: Event) -> str:
    """What an answer cost, in a line: the model, tokens, the cache and the wait."""
    usage, cache, queue = (done.data.get(it) or {} for it in ("usage", "cache", "queue"))
    parts = [
        str(done.data.get("model", "")),
        f"{usage.get('input_tokens', 0)} + {usage.get('output_tokens', 0)} tokens",
    ]
    if cache.get("status") in ("hit", "stale", "shared"):
        parts.append(f"cache {cache['status']}")
    if queue.get("waited_ms"):
        parts.append(f"waited {queue['waited_ms'] / 1000:.1f} s")
    if done.data.get("finish_reason") not in ("stop", None):
        parts.append(f"ended by {done.data['finish_reason']}")
    if done.data.get("degraded"):
        parts.append("second best")
    return ", ".join(parts)


def _wait(event: Event) -> str:
    eta = event.data.get("eta_s")
    about = f", about {max(1, round(eta))} s" if eta is not None else ""
    return f"waiting for quota: place {event.data.get('position')}{about} ..."


class Waiting:
    """A line on the terminal that says what is waited for, until the answer takes its place."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, text: str) -> None:
        """Nothing where nobody looks."""
        if sys.stderr.isatty():
            click.echo(f"{CLEAR}{click.style(text, dim=True)}", err=True, nl=False, color=True)
            self._shown = True

    def clear(self) -> None:
        if self._shown:
            click.echo(CLEAR, err=True, nl=False, color=True)
            self._shown = False
