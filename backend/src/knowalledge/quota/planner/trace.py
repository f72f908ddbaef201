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
from knowalledge.quota.planner.simulation import Arrival, Scenario, SimulationResult, scaled, simulate

COLUMNS = ("arrival_ms", "prompt_id", "input_tokens", "output_tokens")
MAX_ROWS = 10_000_000
_LEVELS = {level.label: level for level in Priority}


class TraceError(Exception):
    """A trace that cannot be read; says where."""


class Assumptions(Struct, frozen=True):
    """What a trace does not say."""

    speed: float = 1.0  # arrivals come so many times as fast
    requests: int = 0  # the trace is repeated or cut to so many; 0: the trace once
    high: float = 0.0  # part of the requests that is HIGH, the rest is LOW; 0: all MEDIUM
    first_ms: float = 400.0  # until an answer begins
    token_ms: float = 8.0  # for each output token
    input_price: float = 0.30  # dollars for a million tokens
    output_price: float = 2.50
    isolated: tuple[int, ...] = ()  # also simulate so many replicas that cannot ask each other


class ConfiguredQuota(Struct, frozen=True):
    """What a trace is replayed against: a target's windows and queue, and the cache before it."""

    windows: tuple[Window, ...]
    rules: QueueRules
    patience_s: float
    cache_ttl_s: float


class ScenarioResult(Struct, frozen=True):
    """One scenario, and what became of its requests."""

    name: str
    result: SimulationResult
    dollars: float


def read(path: Path, assume: Assumptions) -> tuple[Arrival, ...]:
    """The requests of a trace, in order. Raises ``TraceError``."""
    arrivals = []
    try:
        with path.open(newline="") as file:
            rows = csv.DictReader(file)
            missing = [name for name in COLUMNS if name not in (rows.fieldnames or ())]
            if missing:
                raise TraceError(f"{path}: no column {', '.join(missing)}; write {','.join(COLUMNS)}")
            for number, row in zip(range(MAX_ROWS), rows, strict=False):
                try:
                    arrivals.append(_arrival(number, row, assume))
                except (KeyError, TypeError, ValueError) as error:
                    raise TraceError(f"{path}, line {number + 2}: {error}") from error
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TraceError(f"{path}: {error}") from error
    if not arrivals:
        raise TraceError(f"{path}: no requests")
    return tuple(sorted(arrivals, key=lambda it: it.at))


def _arrival(number: int, row: dict[str, str], assume: Assumptions) -> Arrival:
    cost = TokenCost(int(row["input_tokens"]), int(row["output_tokens"]))
    at = float(row["arrival_ms"]) / assume.speed
    if cost.input < 0 or cost.output < 0 or not 0 <= at < 1e12:
        raise ValueError("a number below zero, or absurd")
    if row.get("priority"):
        level = _LEVELS[row["priority"].lower()]
    elif assume.high:
        # Drawn by a checksum, so that two runs of one trace draw the same.
        fraction = crc32(f"{number} {row['prompt_id']}".encode()) / 2**32
        level = Priority.HIGH if fraction < assume.high else Priority.LOW
    else:
        level = Priority.MEDIUM
    latency = row.get("latency_ms")
    seconds = (float(latency) if latency else assume.first_ms + assume.token_ms * cost.output) / 1000
    return Arrival(int(at * 1000), row["prompt_id"], cost, level, row.get("tenant") or "", seconds)


def repeated(trace: Sequence[Arrival], requests: int) -> Iterator[Arrival]:
    """So many requests: the trace, repeated or cut; 0: the trace once."""
    span = trace[-1].at + max(1, trace[-1].at // max(1, len(trace) - 1))
    for number in count():
        for index, original in enumerate(trace):
            if number * len(trace) + index >= (requests or len(trace)):
                return
            at = original.at + number * span
            yield Arrival(
                at, original.prompt, original.cost, original.level, original.tenant, original.seconds
            )


def plan(
    configured: ConfiguredQuota,
    trace: Sequence[Arrival],
    assume: Assumptions,
    factors: Iterable[float],
    start: float,
) -> Iterator[ScenarioResult]:
    """One result for each multiple of the quota in ``factors``. ``start`` in epoch seconds."""
    outputs = sorted(it.cost.output for it in trace)
    held_output = outputs[int(len(outputs) * 0.8)]
    for factor, isolated in [*((it, 1) for it in factors), *((1.0, it) for it in assume.isolated)]:
        windows = scaled(configured.windows, factor)
        scenario = Scenario(
            windows=windows,
            rules=configured.rules,
            patience_s=configured.patience_s,
            cache_ttl_s=configured.cache_ttl_s,
            held_output=held_output,
        )
        result = simulate(scenario, repeated(trace, assume.requests), int(start * SECOND), isolated)
        dollars = result.tokens.input * assume.input_price + result.tokens.output * assume.output_price
        replicas = f", {isolated} replicas without Redis" if isolated > 1 else ""
        yield ScenarioResult(f"{factor:g} x quota ({_named(windows)}){replicas}", result, dollars / 1e6)


def _named(windows: tuple[Window, ...]) -> str:
    return ", ".join(f"{it.name} {it.limit}" for it in windows) or "unlimited"


def table(scenarios: Iterable[ScenarioResult]) -> Iterator[str]:
    """The lines of a report."""
    for scenario in scenarios:
        result = scenario.result
        hits, granted = result.cache_hits, result.granted
        yield scenario.name
        yield f"  requests     {result.requests} in {result.seconds / 60:.1f} min"
        yield f"  from cache   {hits} ({hits / result.requests:.1%})"
        yield f"  served       {granted} ({granted / result.requests:.1%}), ${scenario.dollars:.2f}"
        refused = ", ".join(f"{reason} {number}" for reason, number in sorted(result.refused.items()))
        yield f"  refused      {refused or 'none'}"
        for name, part in result.used.items():
            yield f"  used         {name} {part:.1%}"
        for level, waits in sorted(result.wait_times.items()):
            yield (
                f"  waited       {level.label}: p50 {waits.p50:.2f} s, p95 {waits.p95:.2f} s, "
                f"worst {waits.worst:.2f} s ({waits.granted} served)"
            )
        yield ""


_WIDTH, _HEIGHT, _LEFT, _TOP = 900, 220, 60, 40
_COLOURS = ("#1a73e8", "#e8710a", "#188038", "#a142f4", "#d93025")


def svg(scenarios: Sequence[ScenarioResult]) -> str:
    """Two pictures, one above the other: the part of the quota spent, and how many wait, minute by minute."""
    total = 2 * (_HEIGHT + _TOP) + 60
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {total}" font-family="sans-serif" '
        f'font-size="12"><rect width="{_WIDTH}" height="{total}" fill="#fff"/>'
    ]
    for row, title in enumerate(("share of the quota spent, by minute", "waiting, by minute")):
        top = _TOP + row * (_HEIGHT + _TOP)
        series = [[(minute[0], minute[1 + row]) for minute in it.result.timeline] for it in scenarios]
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
    for index, scenario in enumerate(scenarios):
        parts.append(
            f'<text x="{_LEFT + index * 280}" y="{total - 12}" fill="{_COLOURS[index % len(_COLOURS)]}">'
            f"{scenario.name}</text>"
        )
    return "".join(parts) + "</svg>\n"
