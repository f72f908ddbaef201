"""What a quota would do to a stream of requests: the real ledger and waiting room, in virtual time, without a network.

The desk is the one that serves (``admission.Desk``); only the provider is imagined: an answer takes a latency and a
time per output token, both drawn by the caller, and the output is what the trace says. Nothing here waits or draws.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from heapq import heappop, heappush
from typing import assert_never

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.context import Priority
from knowalledge.core.errors import NeverFits
from knowalledge.quota.domain.admission import AdmissionController, Admitted, Enqueued, Rejected
from knowalledge.quota.domain.calendar import Days
from knowalledge.quota.domain.ledger import Charge
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, Waiter
from knowalledge.quota.domain.window import SECOND, TokenCost, Window, cap, refuse_what_never_fits


class Arrival(Struct, frozen=True):
    """One request of a trace."""

    at: int  # microseconds from the start
    prompt: str  # equal prompts have equal answers
    need: TokenCost  # as it turns out
    level: Priority = Priority.MEDIUM
    tenant: str = ""
    seconds: float = 1.0  # that the provider takes


class Scenario(Struct, frozen=True):
    """What is to be tried."""

    windows: tuple[Window, ...]
    rules: QueueRules
    patience_s: float
    kept_s: float  # life of a cached answer; 0: no cache
    held_output: int  # tokens held for an answer before it is known


class Waits(Struct, frozen=True):
    """How long the requests of a level waited for their turn, in seconds."""

    served: int
    p50: float
    p95: float
    worst: float


class Outcome(Struct, frozen=True):
    """What came of it."""

    requests: int
    hits: int
    served: int
    refused: Mapping[str, int]  # by reason
    waits: Mapping[Priority, Waits]
    used: Mapping[str, float]  # per window, the share of the quota that was spent
    tokens: TokenCost
    seconds: float
    timeline: tuple[tuple[float, float, int], ...]  # per minute: from the start, binding share used, waiting


class _Simulation:
    """One scenario under way."""

    def __init__(self, scenario: Scenario, start: int) -> None:
        self.scenario = scenario
        self.start = start
        self.desk = AdmissionController(scenario.windows, scenario.rules)
        self.days = Days(scenario.windows)
        self.ends: list[tuple[int, int, Arrival, Charge, Waiter]] = []
        self.waiting: dict[str, tuple[Arrival, Waiter]] = {}
        self.deadlines: list[tuple[int, str]] = []
        self.turn = 0  # when the head's comes; 0: nobody waits
        self.cached: dict[str, int] = {}
        self.asked: dict[int, TokenCost | None] = {}  # by input tokens
        self.refused: Counter[str] = Counter()
        self.waits: dict[Priority, list[float]] = {level: [] for level in Priority}
        self.hits = self.number = self.input = self.output = 0
        self.minutes: dict[int, tuple[Counter[str], int]] = {}

    def arrive(self, arrival: Arrival) -> None:
        now = self.start + arrival.at
        self.pass_time(now)
        if self.cached.get(arrival.prompt, 0) > now:
            self.hits += 1
            return
        need = self._asked(arrival.need.input)
        if need is None:
            self.refused["never_fits"] += 1
            return
        scenario = self.scenario
        self.number += 1
        waiter = Waiter(str(self.number), arrival.level, arrival.tenant, need, now)
        admission = self.desk.admit(self.days.at(now), waiter, scenario.patience_s)
        match admission:
            case Admitted(charge):
                self._begin(now, arrival, waiter, charge)
            case Rejected(reason):
                self.refused[reason] += 1
            case Enqueued(shed=shed):
                if shed is not None:
                    self.waiting.pop(shed.id)
                    self.refused[QueueOutcome.SHED] += 1
                self.waiting[waiter.id] = arrival, waiter
                heappush(self.deadlines, (now + int(scenario.patience_s * SECOND), waiter.id))
                if not self.turn:
                    self.turn = now + 1
            case _:
                assert_never(admission)

    def _asked(self, inputs: int) -> TokenCost | None:
        """What a request of so many input tokens asks for; None: more than any wait could give."""
        if inputs not in self.asked:
            windows, guess = self.scenario.windows, TokenCost(inputs, self.scenario.held_output)
            try:
                refuse_what_never_fits("", windows, guess)
                self.asked[inputs] = cap(windows, guess)
            except NeverFits:
                self.asked[inputs] = None
        return self.asked[inputs]

    def _begin(self, now: int, arrival: Arrival, waiter: Waiter, entry: Charge) -> None:
        self.waits[arrival.level].append((now - waiter.arrived) / SECOND)
        heappush(self.ends, (now + int(arrival.seconds * SECOND), int(waiter.id), arrival, entry, waiter))
        if self.scenario.kept_s:
            # Whoever asks the same while it is under way follows it.
            self.cached[arrival.prompt] = now + int((arrival.seconds + self.scenario.kept_s) * SECOND)

    def pass_time(self, until: int) -> None:
        """Everything that happens up to a moment, in order."""
        while True:
            end = self.ends[0][0] if self.ends else until + 1
            late = self.deadlines[0][0] if self.deadlines else until + 1
            turn = self.turn or until + 1
            first = min(end, late, turn)
            if first > until:
                return
            if first == end:
                _, _, arrival, entry, waiter = heappop(self.ends)
                self.desk.ledger.settle(self.days.at(end), entry, arrival.need)
                self.desk.room.correct(waiter, arrival.need)
                self._count(end, arrival.need)
                if self.waiting:
                    self._dispatch(end)
            elif first == late:
                _, key = heappop(self.deadlines)
                if self.desk.room.leave(key, QueueOutcome.TIMED_OUT) is not None:
                    del self.waiting[key]
                    self.refused[QueueOutcome.TIMED_OUT] += 1
            else:
                self._dispatch(turn)

    def _dispatch(self, now: int) -> None:
        granted, wait = self.desk.dispatch(self.days.at(now))
        for waiter, entry in granted:
            arrival, _ = self.waiting.pop(waiter.id)
            self._begin(now, arrival, waiter, entry)
        self.turn = now + max(1, int(wait * SECOND)) if self.waiting else 0

    def _count(self, now: int, need: TokenCost) -> None:
        self.input += need.input
        self.output += need.output
        minute = (now - self.start) // (60 * SECOND)
        spent, _ = self.minutes.setdefault(minute, (Counter(), 0))
        for window in self.scenario.windows:
            spent[window.name] += window.charges(need) + window.holds(need)
        self.minutes[minute] = spent, len(self.waiting)


def run(scenario: Scenario, arrivals: Iterable[Arrival], start: int, alone: int = 1) -> Outcome:
    """Everything that comes of a trace, in order of arrival. ``start`` in microseconds of the epoch: days matter.

    ``alone`` replicas that cannot ask each other take the requests in turn, each with its equal part of the quota; one
    is what any number of replicas are that share a store.
    """
    part = replace(scenario, windows=larger(scenario.windows, 1 / alone))
    replicas = [_Simulation(part, start) for _ in range(alone)]
    count = last = 0
    for arrival in arrivals:
        replicas[count % alone].arrive(arrival)
        count += 1
        last = arrival.at
    waits: dict[Priority, list[float]] = {level: [] for level in Priority}
    refused: Counter[str] = Counter()
    minutes: dict[int, tuple[Counter[str], int]] = {}
    for it in replicas:
        it.pass_time(start + last + int((scenario.patience_s + 3600) * SECOND))
        refused.update(it.refused)
        for level, found in it.waits.items():
            waits[level].extend(found)
        for minute, (spent, waiting) in it.minutes.items():
            before, waited = minutes.get(minute, (Counter(), 0))
            minutes[minute] = before + spent, waited + waiting
    seconds = max(1.0, last / SECOND)
    used = {
        window.name: sum(spent[window.name] for spent, _ in minutes.values())
        / (window.limit * max(1.0, seconds / window.span_s))
        for window in scenario.windows
    }
    return Outcome(
        requests=count,
        hits=sum(it.hits for it in replicas),
        served=sum(map(len, waits.values())),
        refused=dict(refused),
        waits={level: _waits(sorted(found)) for level, found in waits.items() if found},
        used=used,
        tokens=TokenCost(sum(it.input for it in replicas), sum(it.output for it in replicas)),
        seconds=seconds,
        timeline=tuple(_timeline(scenario, minutes)),
    )


def _waits(found: list[float]) -> Waits:
    return Waits(len(found), found[len(found) // 2], found[int(len(found) * 0.95)], found[-1])


def _timeline(
    scenario: Scenario, minutes: Mapping[int, tuple[Counter[str], int]]
) -> Iterator[tuple[float, float, int]]:
    for minute in sorted(minutes):
        spent, waiting = minutes[minute]
        share = max((spent[it.name] / (it.limit * 60 / it.span_s) for it in scenario.windows), default=0.0)
        yield float(minute), share, waiting


def larger(windows: tuple[Window, ...], times: float) -> tuple[Window, ...]:
    """The quota as it would be with so many times its limits."""
    return tuple(
        Window(it.name, it.count, max(1, int(it.limit * times)), it.span_s, it.zone, it.reset_s, it.learn)
        for it in windows
    )
