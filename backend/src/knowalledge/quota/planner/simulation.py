"""What a quota would do to a stream of requests: the real ledger and wait queue, in virtual time, without a network.

The admission controller is the one that serves. Only the provider is imagined: an answer takes a latency and a time for
each output token, both drawn by the caller, and the output is what the trace says. Nothing here waits or draws.
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
from knowalledge.quota.domain.window import SECOND, TokenCost, Window, cap_output, raise_if_never_fits

MINUTE = 60 * SECOND


class Arrival(Struct, frozen=True):
    """One request of a trace."""

    at: int  # microseconds from the start
    prompt: str  # equal prompts have equal answers
    cost: TokenCost  # actual
    level: Priority = Priority.MEDIUM
    tenant: str = ""
    seconds: float = 1.0  # that the provider takes


class Scenario(Struct, frozen=True):
    """The quota, queue and cache to simulate."""

    windows: tuple[Window, ...]
    rules: QueueRules
    patience_s: float
    cache_ttl_s: float  # 0: no cache
    held_output: int  # tokens held for an answer before it is known


class WaitTimes(Struct, frozen=True):
    """How long the granted requests of a level waited for their turn, in seconds."""

    granted: int
    p50: float
    p95: float
    worst: float


class SimulationResult(Struct, frozen=True):
    """What became of the requests."""

    requests: int
    cache_hits: int
    granted: int
    refused: Mapping[str, int]  # by reason
    wait_times: Mapping[Priority, WaitTimes]
    used: Mapping[str, float]  # for each window, the part of the quota that was spent
    tokens: TokenCost
    seconds: float
    timeline: tuple[tuple[float, float, int], ...]  # for each minute: its number, part of the quota, waiting


class _Simulation:
    """One replica in one scenario."""

    def __init__(self, scenario: Scenario, start: int) -> None:
        self.scenario = scenario
        self.start = start
        self.controller = AdmissionController(scenario.windows, scenario.rules)
        self.days = Days(scenario.windows)
        self.ends: list[tuple[int, int, Arrival, Charge, Waiter]] = []
        self.waiting: dict[str, tuple[Arrival, Waiter]] = {}
        self.deadlines: list[tuple[int, str]] = []
        self.next_dispatch = 0  # 0: none waits
        self.cached_until: dict[str, int] = {}  # by prompt
        self.estimates: dict[int, TokenCost | None] = {}  # by input tokens
        self.refused: Counter[str] = Counter()
        self.waits_s: dict[Priority, list[float]] = {level: [] for level in Priority}
        self.cache_hits = self.number = self.input = self.output = 0
        self.minutes: dict[
            int, tuple[Counter[str], int]
        ] = {}  # what was spent by window, and how many waited

    def arrive(self, arrival: Arrival) -> None:
        now = self.start + arrival.at
        self.pass_time(now)
        if self.cached_until.get(arrival.prompt, 0) > now:
            self.cache_hits += 1
            return
        cost = self._estimate(arrival.cost.input)
        if cost is None:
            self.refused["never_fits"] += 1
            return
        scenario = self.scenario
        self.number += 1
        waiter = Waiter(str(self.number), arrival.level, arrival.tenant, cost, now)
        admission = self.controller.admit(self.days.at(now), waiter, scenario.patience_s)
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
                if not self.next_dispatch:
                    self.next_dispatch = now + 1
            case _:
                assert_never(admission)

    def _estimate(self, input_tokens: int) -> TokenCost | None:
        """The cost that a request of so many input tokens reserves; None if no wait could grant it."""
        if input_tokens not in self.estimates:
            windows, cost = self.scenario.windows, TokenCost(input_tokens, self.scenario.held_output)
            try:
                raise_if_never_fits("", windows, cost)
                self.estimates[input_tokens] = cap_output(windows, cost)
            except NeverFits:
                self.estimates[input_tokens] = None
        return self.estimates[input_tokens]

    def _begin(self, now: int, arrival: Arrival, waiter: Waiter, charge: Charge) -> None:
        self.waits_s[arrival.level].append((now - waiter.arrived) / SECOND)
        heappush(self.ends, (now + int(arrival.seconds * SECOND), int(waiter.id), arrival, charge, waiter))
        ttl_s = self.scenario.cache_ttl_s
        if ttl_s:
            # Requests for the same answer share the call while it is under way.
            self.cached_until[arrival.prompt] = now + int((arrival.seconds + ttl_s) * SECOND)

    def pass_time(self, until: int) -> None:
        """Everything that happens up to a moment, in order."""
        while True:
            end = self.ends[0][0] if self.ends else until + 1
            deadline = self.deadlines[0][0] if self.deadlines else until + 1
            dispatch = self.next_dispatch or until + 1
            first = min(end, deadline, dispatch)
            if first > until:
                return
            if first == end:
                self._end(end)
            elif first == deadline:
                self._time_out()
            else:
                self._dispatch(dispatch)

    def _end(self, now: int) -> None:
        _, _, arrival, charge, waiter = heappop(self.ends)
        self.controller.ledger.settle(self.days.at(now), charge, arrival.cost)
        self.controller.queue.correct(waiter, arrival.cost)
        self._count(now, arrival.cost)
        if self.waiting:
            self._dispatch(now)

    def _time_out(self) -> None:
        _, waiter_id = heappop(self.deadlines)
        if self.controller.queue.leave(waiter_id, QueueOutcome.TIMED_OUT) is not None:
            del self.waiting[waiter_id]
            self.refused[QueueOutcome.TIMED_OUT] += 1

    def _dispatch(self, now: int) -> None:
        granted, wait_s = self.controller.dispatch(self.days.at(now))
        for waiter, charge in granted:
            arrival, _ = self.waiting.pop(waiter.id)
            self._begin(now, arrival, waiter, charge)
        self.next_dispatch = now + max(1, int(wait_s * SECOND)) if self.waiting else 0

    def _count(self, now: int, cost: TokenCost) -> None:
        self.input += cost.input
        self.output += cost.output
        minute = (now - self.start) // MINUTE
        spent, _ = self.minutes.setdefault(minute, (Counter(), 0))
        for window in self.scenario.windows:
            spent[window.name] += window.charge_of(cost) + window.hold_of(cost)
        self.minutes[minute] = spent, len(self.waiting)


def simulate(
    scenario: Scenario, arrivals: Iterable[Arrival], start: int, isolated: int = 1
) -> SimulationResult:
    """What becomes of a trace, in order of arrival. ``start``: microseconds of the epoch, since calendar days matter.

    ``isolated`` replicas that cannot ask each other take the requests in turn, each with its equal share of the quota;
    1 is what any number of replicas are that share a store.
    """
    share = replace(scenario, windows=scaled(scenario.windows, 1 / isolated))
    replicas = [_Simulation(share, start) for _ in range(isolated)]
    count = last = 0
    for arrival in arrivals:
        replicas[count % isolated].arrive(arrival)
        count += 1
        last = arrival.at
    waits_s: dict[Priority, list[float]] = {level: [] for level in Priority}
    refused: Counter[str] = Counter()
    minutes: dict[int, tuple[Counter[str], int]] = {}
    for replica in replicas:
        replica.pass_time(start + last + int((scenario.patience_s + 3600) * SECOND))
        refused.update(replica.refused)
        for level, own in replica.waits_s.items():
            waits_s[level].extend(own)
        for minute, (spent, waiting) in replica.minutes.items():
            spent_before, waiting_before = minutes.get(minute, (Counter(), 0))
            minutes[minute] = spent_before + spent, waiting_before + waiting
    seconds = max(1.0, last / SECOND)
    return SimulationResult(
        requests=count,
        cache_hits=sum(it.cache_hits for it in replicas),
        granted=sum(map(len, waits_s.values())),
        refused=dict(refused),
        wait_times={level: _wait_times(sorted(waits)) for level, waits in waits_s.items() if waits},
        used=_used(scenario.windows, minutes, seconds),
        tokens=TokenCost(sum(it.input for it in replicas), sum(it.output for it in replicas)),
        seconds=seconds,
        timeline=tuple(_timeline(scenario, minutes)),
    )


def _used(
    windows: tuple[Window, ...], minutes: Mapping[int, tuple[Counter[str], int]], seconds: float
) -> dict[str, float]:
    """For each window, the part of the quota that was spent."""
    return {
        window.name: sum(spent[window.name] for spent, _ in minutes.values())
        / (window.limit * max(1.0, seconds / window.span_s))
        for window in windows
    }


def _wait_times(waits: list[float]) -> WaitTimes:
    return WaitTimes(len(waits), waits[len(waits) // 2], waits[int(len(waits) * 0.95)], waits[-1])


def _timeline(
    scenario: Scenario, minutes: Mapping[int, tuple[Counter[str], int]]
) -> Iterator[tuple[float, float, int]]:
    for minute in sorted(minutes):
        spent, waiting = minutes[minute]
        part = max((spent[it.name] / (it.limit * 60 / it.span_s) for it in scenario.windows), default=0.0)
        yield float(minute), part, waiting


def scaled(windows: tuple[Window, ...], factor: float) -> tuple[Window, ...]:
    """The same windows with so many times their limits, at least 1."""
    return tuple(replace(it, limit=max(1, int(it.limit * factor))) for it in windows)
