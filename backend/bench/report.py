"""Results into docs/benchmarks.md: one section a case, replaced when the case runs again."""

import os
import platform
import re
import sys
from datetime import UTC, datetime
from pathlib import Path

import psutil
from msgspec import Struct

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
_INTRO = """# Benchmarks

Written by `make bench`; `make bench ONLY=overhead` runs one case again and replaces its section. Everything runs on one
machine against the strict simulator (`knowalledge provider-sim`), so compare ratios, not milliseconds.
"""
ORDER = ("overhead", "start", "quota", "plan", "room", "cache", "clients")


class Row(Struct, frozen=True):
    """One measurement. ``met`` is None where there is no target; ``but`` is what else is to be said of it."""

    case: str
    measured: str
    target: str = ""
    met: bool | None = None
    but: str = ""


def machine() -> str:
    """What it ran on."""
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    cores, load = psutil.cpu_count(), os.getloadavg()[2]
    return f"{model}, {cores} cores (load before: {load:.1f}), Python {sys.version.partition(' [')[0]}"


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| case | measured | target | met |", "| --- | --- | --- | --- |"]
    for row in rows:
        met = "" if row.met is None else "yes" if row.met else "**no**"
        but = f"; {row.but}" if row.but else ""
        lines.append(f"| {row.case} | {row.measured} | {row.target} | {met}{but} |")
    return "\n".join(lines)


def merge(name: str, title: str, why: str, command: str, rows: list[Row], path: Path = DOCUMENT) -> None:
    """Put one case's section in its place."""
    meta = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC · {machine()} · `{command}`"
    section = f"## {title}\n<!-- case: {name} -->\n{why}\n\n{meta}\n\n{table(rows)}\n"
    text = path.read_text() if path.exists() else ""
    found = {
        match[1]: match[0].strip() + "\n"
        for match in re.finditer(r"(?ms)^## [^\n]*\n<!-- case: ([\w-]+) -->.*?(?=^## |\Z)", text)
    }
    found[name] = section
    names = sorted(found, key=lambda it: (ORDER.index(it.partition("-")[0]), it))
    path.write_text(_INTRO + "\n" + "\n".join(found[it] for it in names))
