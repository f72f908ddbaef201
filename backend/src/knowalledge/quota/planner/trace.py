"""``knowalledge plan``: a trace through the configured quota in virtual time, as a table and a picture.

A trace is CSV with the columns ``arrival_ms, prompt_id, input_tokens, output_tokens`` and, if it has them,
``priority``, ``tenant`` and ``latency_ms``.
"""

import csv
from collections.abc import Iterable, Iterator, Sequence
from itertools import count
from pathlib import Path
from zlib import crc32

from msgspec import Struct

from knowalledge.core.context import Priority
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, TokenCost, Window
from knowalledge.quota.planner.simulation import Arrival, Outcome, Scenario, larger, run

COLUMNS = ("arrival_ms", "prompt_id", "input_tokens", "output_tokens")
MAX_ROWS = 10_000_000
_LEVELS = {level.label: level for level in Priority}


class TraceError(Exception):
    """A trace that cannot be read; says where."""


class Assumptions(Struct, frozen=True):
    """What a trace does not say."""

    speed: float = 1.0  # arrivals come so many times as fast
    requests: int = 0  # so many, the trace from the start again if it is shorter; 0: the trace once
    high: float = 0.0  # this share of the requests is HIGH and the rest LOW; 0: all MEDIUM
    first_ms: float = 400.0  # until an answer begins
    token_ms: float = 8.0  # for each output token
    input_price: float = 0.30  # dollars for a million tokens
    output_price: float = 2.50
    alone: tuple[int, ...] = ()  # also try so many replicas that cannot ask each other


class Configured(Struct, frozen=True):
    """The quota that a trace is replayed against: a target's windows, its waiting room, and the cache before it."""

    windows: tuple[Window, ...]
    rules: QueueRules
    patience_s: float
    kept_s: float


class Plan(Struct, frozen=True):
    """One scenario and what came of it."""

    name: str
    outcome: Outcome
    cost: float  # dollars


def read(path: Path, assume: Assumptions) -> tuple[Arrival, ...]:
    """The requests of a trace, in order. Raises ``TraceError``."""
    found = []
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise TraceError(f"{path}: no column {', '.join(missing)}; write {','.join(COLUMNS)}")
            for number, row in zip(range(MAX_ROWS), rows, strict=False):
                try:
                    found.append(_arrival(number, row, assume))
                except (KeyError, TypeError, ValueError) as error:
                    raise TraceError(f"{path}, line {number + 2}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: {error}") from error
    if not found:
        raise TraceError(f"{path}: no requests")
    return tuple(sorted(found, key=lambda it: it.at))


def _arrival(number: int, row: dict[str, str], assume: Assumptions) -> Arrival:
    need = TokenCost(int(row["input_tokens"]), int(row["output_tokens"]))
    at = float(row["arrival_ms"]) / assume.speed
    if need.input < 0 or need.output < 0 or not 0 <= at < 1e12:
        raise ValueError("a number below zero, or absurd")
    if row.get("priority"):
        level = _LEVELS[row["priority"].lower()]
    elif assume.high:
        # Drawn by a checksum, so that two runs of one trace draw the same.
        share = crc32(f"{number} {row['prompt_id']}".encode()) / 2**32
        level = Priority.HIGH if share < assume.high else Priority.LOW
    else:
        level = Priority.MEDIUM
    latency = row.get("latency_ms")
    seconds = (float(latency) if latency else assume.first_ms + assume.token_ms * need.output) / 1000
    return Arrival(int(at * 1000), row["prompt_id"], need, level, row.get("tenant") or "", seconds)


def repeated(trace: Sequence[Arrival], requests: int) -> Iterator[Arrival]:
    """So many requests of a trace, again from the start where it ends; 0: the trace once."""
    span = trace[-1].at + max(1, trace[-1].at // max(1, len(trace) - 1))
    for number in count():
        for index, it in enumerate(trace):
            if number * len(trace) + index >= (requests or len(trace)):
                return
            shifted = it.at + number * span
            yield Arrival(shifted, it.prompt, it.need, it.level, it.tenant, it.seconds) if number else it


def plan(
    configured: Configured,
    trace: Sequence[Arrival],
    assume: Assumptions,
    times: Iterable[float],
    start: float,
) -> Iterator[Plan]:
    """One result for each multiple of the quota in ``times``. ``start`` in epoch seconds."""
    outputs = sorted(it.need.output for it in trace)
    held = outputs[int(len(outputs) * 0.8)]
    for factor, alone in [*((it, 1) for it in times), *((1.0, it) for it in assume.alone)]:
        windows = larger(configured.windows, factor)
        scenario = Scenario(
            windows=windows,
            rules=configured.rules,
            patience_s=configured.patience_s,
            kept_s=configured.kept_s,
            held_output=held,
        )
        outcome = run(scenario, repeated(trace, assume.requests), int(start * SECOND), alone)
        cost = (outcome.tokens.input * assume.input_price + outcome.tokens.output * assume.output_price) / 1e6
        apart = f", {alone} replicas without Redis" if alone > 1 else ""
        yield Plan(f"{factor:g} x quota ({_named(windows)}){apart}", outcome, cost)


def _named(windows: tuple[Window, ...]) -> str:
    return ", ".join(f"{it.name} {it.limit}" for it in windows) or "unlimited"


def table(plans: Iterable[Plan]) -> Iterator[str]:
    """What came of each scenario."""
    for it in plans:
        found = it.outcome
        yield f"{it.name}"
        yield f"  requests     {found.requests} in {found.seconds / 60:.1f} min"
        yield f"  from cache   {found.hits} ({found.hits / found.requests:.1%})"
        yield f"  served       {found.served} ({found.served / found.requests:.1%}), ${it.cost:.2f}"
        refused = ", ".join(f"{reason} {number}" for reason, number in sorted(found.refused.items()))
        yield f"  refused      {refused or 'none'}"
        for name, share in found.used.items():
            yield f"  used         {name} {share:.1%}"
        for level, waits in sorted(found.waits.items()):
            yield (
                f"  waited       {level.label}: p50 {waits.p50:.2f} s, p95 {waits.p95:.2f} s, "
                f"worst {waits.worst:.2f} s ({waits.served} served)"
            )
        yield ""


_WIDTH, _HEIGHT, _LEFT, _TOP = 900, 220, 60, 40
_COLOURS = ("#1a73e8", "#e8710a", "#188038", "#a142f4", "#d93025")


def svg(plans: Sequence[Plan]) -> str:
    """Two pictures, one above the other: the share of the quota spent, and who waits, minute by minute."""
    total = 2 * (_HEIGHT + _TOP) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {total}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{total}" fill="#fff"/>'
    ]
    for row, title in enumerate(("share of the quota spent, by minute", "waiting, by minute")):
        top = _TOP + row * (_HEIGHT + _TOP)
        series = [[(line[0], line[1 + row]) for line in it.outcome.timeline] for it in plans]
        most = max((value for points in series for _, value in points), default=0) or 1
        last = max((minute for points in series for minute, _ in points), default=0) or 1
        parts.append(f'<text x="{_LEFT}" y="{top - 8}">{title}</text>')
        for mark in (0, 0.5, 1):
            y = top + _HEIGHT * (1 - mark)
            parts.append(
                f'<line x1="{_LEFT}" x2="{_WIDTH - 20}" y1="{y:.0f}" y2="{y:.0f}" stroke="#ddd"/>'
                f'<text x="8" y="{y + 4:.0f}">{mark * most:.3g}</text>'
            )
        for index, points in enumerate(series):
            path = " ".join(
                f"{_LEFT + (_WIDTH - 20 - _LEFT) * minute / last:.1f},{top + _HEIGHT * (1 - value / most):.1f}"
                for minute, value in points
            )
            colour = _COLOURS[index % len(_COLOURS)]
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>')
    for index, it in enumerate(plans):
        parts.append(
            f'<text x="{_LEFT + index * 280}" y="{total - 12}" fill="{_COLOURS[index % len(_COLOURS)]}">'
            f"{it.name}</text>"
        )
    return "".join(parts) + "</svg>\n"
