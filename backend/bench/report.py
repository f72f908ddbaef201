"""Results into docs/benchmarks.md: one section a case, replaced when the case runs again."""

import operator
import os
import platform
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
from msgspec import Struct

DOCUMENT = Path(__file__).parents[2] / "docs" / "benchmarks.md"
_INTRO = """# Benchmarks

`make bench` writes this page and exits 1 if a row misses its target.
`make bench ONLY=overhead` measures one case again and replaces its section.
A row is met if the figures before the parenthesis, as they stand here, are within the target.
Everything runs on one machine against the strict simulator (`knowalledge provider-sim`).
Compare ratios, not milliseconds.
"""
ORDER = ("overhead", "tracing", "start", "quota", "plan", "room", "cache", "topics", "clients")


# "p99 <= 47.6 x plain": a name if there are several figures, how they are compared, the limit, its unit.
_LIMIT = re.compile(r"(?:(?P<name>[^<>=]+) )?(?P<op><=|>=|<|>|=) (?P<limit>[\d.,]+)(?P<unit>.*)")
_COMPARED: dict[str, Callable[[float, float], bool]] = {
    "<=": operator.le,
    "<": operator.lt,
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
}


def judge(measured: str, target: str) -> bool:
    """Whether the figures in ``measured`` are within ``target``, as they are printed.

    A target is a list of limits, ``p50 <= 9.5 x plain, p99 <= 47.6 x plain``. The figures stand in the same order, with
    the same names and units, before the first parenthesis: ``p50 5.5 x plain, p99 23.7 x plain (...)``. A target
    without a comparison is a text to be equal to. Raises ValueError if the two do not match in form.
    """
    if not re.search("[<=>]", target):
        return measured == target or measured.startswith(target + " (")
    limits = [_LIMIT.fullmatch(it) for it in target.split(", ")]
    figures = measured.partition(" (")[0].split(", ")
    if len(figures) != len(limits):
        raise ValueError(f"{len(figures)} figures for {len(limits)} limits: {measured!r}, {target!r}")
    return all(_within(figure, limit, target) for figure, limit in zip(figures, limits, strict=True))


def _within(figure: str, limit: re.Match[str] | None, target: str) -> bool:
    if limit is None:
        raise ValueError(f"a limit that no figure can be compared with: {target!r}")
    name, number, unit = limit["name"], r"([-+]?\d[\d,]*(?:\.\d+)?)", limit["unit"]
    found = re.fullmatch(re.escape(f"{name} " if name else "") + number + re.escape(unit), figure)
    if found is None:
        raise ValueError(f"{figure!r} is no figure for {limit[0]!r}")
    value, bound = (float(it.replace(",", "")) for it in (found[1], limit["limit"]))
    return _COMPARED[limit["op"]](value, bound)


class Row(Struct, frozen=True):
    """One measurement: its case, its figures, and their limits; no ``target``, no judgement. See ``judge``."""

    case: str
    measured: str
    target: str = ""

    @property
    def met(self) -> bool | None:
        """None where there is no target. Raises ValueError for figures that the target does not fit."""
        return judge(self.measured, self.target) if self.target else None


def judged(document: str) -> Iterator[tuple[Row, str]]:
    """Every row of a document's tables, and what its last column says."""
    for line in document.splitlines():
        cells = [it.strip() for it in line.strip("|").split(" | ")] if line.startswith("| ") else []
        if len(cells) == 4 and cells[0] not in ("case", "---"):
            yield Row(*cells[:3]), cells[3]


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


_MET = {None: "", True: "yes", False: "**no**"}


def table(rows: list[Row]) -> str:
    """As Markdown."""
    lines = ["| case | measured | target | met |", "| --- | --- | --- | --- |"]
    lines += [f"| {row.case} | {row.measured} | {row.target} | {_MET[row.met]} |" for row in rows]
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
