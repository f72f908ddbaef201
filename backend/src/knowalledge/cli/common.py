"""What the commands that read a configuration share."""

import json
import os
import sys
from collections.abc import Iterator, Sequence

import click

from knowalledge.config.places import located
from knowalledge.config.settings import Settings, SettingsError
from knowalledge.core.clock import SystemClock
from knowalledge.core.settings import Edit, Fault, Step
from knowalledge.providers.targets import unusable_targets

config_option = click.option(
    "--config",
    default="",
    metavar="FILE",
    help="The YAML file; default: the one that KNOWALLEDGE_CONFIG names, else the built-in model.",
)


def load_settings(config: str, *, as_json: bool = False) -> Settings:
    """The settings in force. Prints every fault with its cure and exits with 2 if there is any."""
    try:
        settings = Settings.load(config=config)
        unusable = list(unusable_targets(settings.models, settings.provider.proxy, SystemClock()))
        faults = located(unusable, settings.file, settings.lines, os.environ)
    except SettingsError as error:
        faults = error.faults
    if faults:
        if as_json:
            click.echo(told(faults, []))
        else:
            report(faults)
        sys.exit(2)
    return settings


def report(faults: Sequence[Fault], hue: str = "red") -> None:
    """Print each fault or note with its place and its cure, on standard error."""
    for fault in faults:
        place = f"{fault.file}:{fault.line}" if fault.line else fault.file
        where = click.style(f"{place}: ", bold=True) if place and place != fault.key else ""
        click.echo(f"{where}{fault.key}: {click.style(fault.wrong, fg=hue)}", err=True)
        click.echo(f"    {click.style('cure:', fg='green')} {fault.cure}", err=True)
        for step in fault.steps:
            click.echo(f"    {_spelt(step)}", err=True)


def fail(key: str, wrong: str, cure: str) -> None:
    """Print one fault with its cure."""
    report([Fault(key, wrong, cure)])


def told(faults: Sequence[Fault], remarks: Sequence[Fault]) -> str:
    """Faults and notes as JSON."""
    return json.dumps(
        {"ok": not faults, "faults": list(map(_row, faults)), "notes": list(map(_row, remarks))}, indent=1
    )


def _row(fault: Fault) -> dict[str, object]:
    steps = [dict(it._asdict()) for it in fault.steps]
    return fault._asdict() | {"line": fault.line or None, "steps": steps}


def _spelt(step: Step) -> str:
    """One step, so that what stands after the colon can be pasted."""
    match step.edit:
        case Edit.WRITE:
            return f"write: {step.text}"
        case Edit.ADD:
            parent = step.key.rpartition(".")[0]
            return f"add{f' to {parent}' if parent else ''}: {step.text}"
        case Edit.RENAME:
            return f"rename it to: {step.text}"
        case Edit.REMOVE:
            return f"remove: {step.key}"
        case Edit.RUN:
            return f"run: {step.text}"


def columns(rows: Sequence[Sequence[str]]) -> Iterator[str]:
    """Rows as lines, each column as wide as its longest cell; cells may be coloured."""
    widths = [max(len(click.unstyle(cell)) for cell in column) for column in zip(*rows, strict=True)]
    for row in rows:
        padded = (
            cell + " " * (width - len(click.unstyle(cell))) for cell, width in zip(row, widths, strict=True)
        )
        yield "  ".join(padded).rstrip()
