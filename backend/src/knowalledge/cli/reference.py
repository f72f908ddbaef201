"""``knowalledge reference``: the pages of ``docs/reference`` that are made from the tables of the code.

A test compares ``docs/`` with them, so that neither can lag behind.
"""

from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from knowalledge.app import create_app
from knowalledge.cli.manners import example
from knowalledge.config.models import MODEL_KEYS, TARGET_KEYS
from knowalledge.config.settings import SETTINGS, Settings
from knowalledge.config.sources import variable
from knowalledge.core import errors
from knowalledge.gateway.api.dialects import TABLES
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.web.problems import TITLES, status_of_kind

# The second line of every generated page.
MADE = "<!-- made by `make reference`; do not edit -->"


@example("knowalledge reference docs/reference")
@click.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
@click.pass_context
def reference(context: click.Context, folder: Path) -> None:
    """Write the reference pages of the documentation into FOLDER."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in pages(context.find_root()).items():
        (folder / name).write_text(text)


def pages(main: click.Context) -> dict[str, str]:
    """Every page by the name of its file; ``main`` is the context of the whole command line."""
    return {
        "configuration.md": "\n".join(configuration()) + "\n",
        "metrics.md": "\n".join(metrics()) + "\n",
        "errors.md": "\n".join(failures()) + "\n",
        "commands.md": "\n".join(commands(main)) + "\n",
        "dialects.md": "\n".join(dialects()) + "\n",
    }


def dialects() -> Iterator[str]:
    """What becomes of each field between two dialects."""
    yield from ("# Fields across dialects", MADE, "")
    yield from (
        "Where client and target speak one dialect, every field travels as it is, also one that is not listed here.",
        "[ADR 16](../adr/0016-pass-through.md) says how.",
        "This page is about requests in OpenAI's dialect to a target of Gemini's, and the other way round.",
        "A row covers everything below its path that has no row of its own; `[]` stands for each element of a list.",
        "*Carried* fields reach the other side, *refused* ones are a 400 that names them, *ignored* ones are left out.",
        "Unknown fields are ignored.",
    )
    for table in TABLES:
        yield from ("", f"## {table.name}: {table.source} to {table.destination}", "")
        yield from ("| field | | how, or why not |", "| --- | --- | --- |")
        for rule in sorted(table.rules, key=lambda it: it.path):
            harmless = f"; {' or '.join(map(_literal, rule.harmless))} is not" if rule.harmless else ""
            yield f"| `{rule.path}` | {rule.fate.value}{harmless} | {rule.how} |"


def _literal(value: object) -> str:
    return f"`{msgspec.json.encode(value).decode()}`"


def configuration() -> Iterator[str]:
    """Every setting."""
    yield from ("# Configuration", MADE, "")
    yield from (
        "Settings come from one YAML file (`--config`, or `KNOWALLEDGE_CONFIG`), the environment and the command line.",
        "A later source overrides an earlier one; a setting that no source names has its default.",
        "Each variable also has a `_FILE` form that names a file with the value, for mounted secrets.",
        "In the file a key may be nested or have dots: `queue: {capacity: 50}` is `queue.capacity: 50`.",
        "An unknown key is a fault.",
        "`knowalledge config check` prints all faults at once, each with its line and its cure.",
    )
    yield from ("", "| key | variable | default | why |", "| --- | --- | --- | --- |")
    for row in SETTINGS:
        yield f"| `{row.key}` | `{variable(row.key)}` | `{row.example if row.default else ''}` | {row.description} |"
    yield from ("", "## models", "")
    yield "`models:` maps each name that clients may ask for to"
    yield from ("", "| key | |", "| --- | --- |")
    for key, description in MODEL_KEYS.items():
        yield f"| `{key}` | {description} |"
    yield from ("", "and each target has", "", "| key | |", "| --- | --- |")
    for key, description in TARGET_KEYS.items():
        yield f"| `{key}` | {description} |"


def metrics() -> Iterator[str]:
    """Every metric."""
    yield from ("# Metrics", MADE, "")
    yield from (
        "`GET /metrics` serves them in Prometheus' text format, over all workers of a process.",
        "Labels are closed sets or come from the configuration; nothing that a caller sends becomes a label.",
    )
    yield from ("", "| series | kind | labels | |", "| --- | --- | --- | --- |")
    registry = PrometheusMetrics()
    create_app(Settings.load(environ={}), registry)
    for metric in sorted(registry.registered, key=lambda it: it.name):
        labels = ", ".join(f"`{it}`" for it in metric.labels)
        yield f"| `{metric.name}` | {metric.kind} | {labels} | {metric.description} |"
    for title, values in (
        ("outcome", Outcome),
        ("ending (of a wait)", QueueOutcome),
        ("reason (of a refusal)", RefusalReason),
    ):
        yield from ("", f"`{title}` is one of {', '.join(f'`{it.value}`' for it in values)}.")


def _kinds(base: type[errors.KnowalledgeError]) -> Iterator[type[errors.KnowalledgeError]]:
    """A class of errors and its subclasses, those of other modules included; tests' own are not ours."""
    yield base
    for kind in base.__subclasses__():
        if kind.__module__.startswith("knowalledge."):
            yield from _kinds(kind)


def failures() -> Iterator[str]:
    """Every error code."""
    yield from ("# Errors", MADE, "")
    yield from (
        "The native routes answer with `application/problem+json` (RFC 9457) and a stable `code`.",
        "The OpenAI and Gemini dialects answer in their own form, so that an SDK raises its own errors.",
        "429 and 503 always say when to come back (`Retry-After`).",
    )
    yield from ("", "| code | status | |", "| --- | --- | --- |")
    for kind in _kinds(errors.KnowalledgeError):
        status = status_of_kind(kind)
        summary = (kind.__doc__ or "").strip().partition("\n")[0] if "__doc__" in vars(kind) else ""
        yield f"| `{kind.code}` | {status} {TITLES.get(status, '')} | {summary} |"


def commands(main: click.Context) -> Iterator[str]:
    """Every command and its options."""
    yield from ("# Commands", MADE, "")
    for path, command in _walk("knowalledge", main, main.command):
        yield from (f"## {path}", "", command.get_short_help_str(200), "")
        options = [it for it in command.params if isinstance(it, click.Option)]
        if options:
            yield from ("| option | default | |", "| --- | --- | --- |")
            for option in options:
                default = option.default if isinstance(option.default, str | int | float) else ""
                yield f"| `{option.opts[-1]}` | `{default}` | {option.help or ''} |"
            yield ""


def _walk(path: str, context: click.Context, command: click.Command) -> Iterator[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        yield path, command
        return
    for name in command.list_commands(context):
        inner = command.get_command(context, name)
        if inner is not None:
            yield from _walk(f"{path} {name}", context, inner)
