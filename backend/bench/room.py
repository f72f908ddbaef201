"""The waiting room: who waits how long when there is not enough for all."""

import json
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from random import Random
from typing import Any

import msgspec
from msgspec import Struct

from bench.fleet import Arrival, Fleet, Judged, Outcome, Replay, counted, prompt, trace
from bench.load import quantile
from bench.processes import Stage
from bench.quota import LIMITS, QUOTA, TPM, beside
from bench.report import Row

TITLE = "The waiting room"
WHY = """\
The same quota, provider and trace as above.
Waits are those that the gateway reports (`queue.waited_ms`); of three fleets the median counts."""
# What each tenant asks for, in parts of the quota: both want more than their half.
OFFERED = {"light": 0.75, "heavy": 7.5}
TITLE_WAITERS = "Many waiters on one worker"
WHY_WAITERS = """\
A quota of 2,000 a minute is spent, then 2,000 requests wait for the next minute.
The event loop counts as blocked when gevent's monitor, a native thread in the worker, says so."""


def run(quick: bool) -> list[Row]:
    seconds = 150.0 if quick else 300.0
    # The order is not asked beside those who measure time: it takes all of a core.
    return beside([urgent, tenants, lost_replica, come_back, woken], seconds) + beside([order], seconds)


def run_waiters(_: bool) -> list[Row]:
    return beside([many_waiters], 0.0)


class Urgent(Struct, frozen=True):
    """How one fleet served the urgent and the others."""

    high: list[Outcome]
    low: list[Outcome]
    judged: Judged
    whole: Judged

    @property
    def served(self) -> int:
        """Of the urgent, to the end."""
        return sum(it.status == 200 and "finish_reason" in it.body for it in self.high)

    def waited(self, share: float) -> float:
        return quantile([it.waited for it in self.high if it.status == 200], share)


def urgent(_: Stage, seconds: float) -> list[Row]:
    """Three fleets side by side, alike: how long a provider takes is drawn anew in each."""
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(_urgent, [seconds] * 3))
    by_wait = sorted(runs, key=lambda it: it.waited(0.95))
    by_use = sorted(runs, key=lambda it: it.judged.best)
    p95s, uses = [it.waited(0.95) for it in by_wait], [it.judged.best for it in by_use]
    served, asked = sum(it.served for it in runs), sum(len(it.high) for it in runs)
    # Of those who were told a time of some length on entering, and then had their turn.
    ratios = [
        it.waited / it.body["told"]["eta_s"]
        for run in runs
        for it in run.low
        if it.status == 200 and it.waited and it.body.get("told", {}).get("eta_s", 0) >= 5
    ]
    near = sum(0.8 <= it <= 1.25 for it in ratios) / max(1, len(ratios))
    return [
        Row(
            "20% HIGH + 80% LOW at three times the quota, three fleets: HIGH",
            f"p95 wait {p95s[1]:.2f} s, not served {asked - served} ({p95s[0]:.2f} to {p95s[2]:.2f} s; "
            f"p50 {by_wait[1].waited(0.5):.2f} s; {asked} asked)",
            "p95 wait <= 1.5 s, not served = 0",
        ),
        Row(
            "the same: the provider",
            f"refused {sum(it.whole.rejected for it in runs)}, use {uses[1]:.1%} ({uses[0]:.1%} to {uses[2]:.1%}; "
            f"{by_use[1].judged.told()}; LOW: {counted(by_use[1].low)})",
            "refused = 0, use >= 98%",
        ),
        Row(
            "the same: time told to LOW on entering against the real wait",
            f"median ratio {statistics.median(ratios or [0]):.2f}; {near:.0%} of {len(ratios)} within 20%",
        ),
    ]


def _urgent(seconds: float) -> Urgent:
    with Stage() as stage:
        fleet = Fleet(stage, QUOTA, LIMITS)
        dice = Random(4)
        arrivals = [
            msgspec.structs.replace(it, headers={"X-Priority": level}, tag=level)
            for it in trace(3 * TPM, seconds, seed=4)
            for level in dice.choices(("high", "low"), (1, 4))
        ]
        outcomes = Replay([it.port for it in fleet.gateways], arrivals, body={"stream": True}).run()
        return Urgent(
            [it for it in outcomes if it.arrival.tag == "high"],
            [it for it in outcomes if it.arrival.tag == "low"],
            fleet.stats(60, seconds),
            fleet.stats(0, seconds),
        )


def tenants(stage: Stage, seconds: float) -> list[Row]:
    """A room that holds more than a window serves, and callers with the patience for it: then both always wait.

    At the low level, which is paced: at another one all of a minute is granted in one second, and nothing in between.
    """
    tpm = TPM // 2  # half of what the others use: it is asked for eight times over
    fleet = Fleet(
        stage,
        f"[{{count: tokens, limit: {tpm}, window: 60s}}]",
        LIMITS | {"rpm": 0, "tpm": tpm},
        extra="auth: {tenant_header: X-Tenant}\nqueue: {capacity: 400, timeout: 100s}\nrequest: {timeout: 150s}",
    )
    arrivals = [
        msgspec.structs.replace(it, headers={"X-Tenant": tenant, "X-Priority": "low"}, tag=tenant)
        for seed, (tenant, times) in enumerate(OFFERED.items(), 6)
        for it in trace(times * tpm, seconds, seed)
    ]
    arrivals.sort(key=lambda it: it.at)
    replay = Replay([it.port for it in fleet.gateways], arrivals, 150.0)
    filled = min(60.0, seconds / 2)  # until the room has filled
    fewest = dict.fromkeys(OFFERED, 1 << 30)
    for index in range(int(seconds - filled)):
        replay.do(filled + index, partial(_note_fewest, fleet, fewest))
    outcomes = replay.run()
    tokens = dict.fromkeys(OFFERED, 0)
    for it in outcomes:
        if it.status == 200 and filled < it.ended < seconds:
            tokens[it.arrival.tag] += it.body["usage"]["input_tokens"] + it.body["usage"]["output_tokens"]
    share = tokens["light"] / max(1, sum(tokens.values()))
    fared = "; ".join(f"{it}: {counted([o for o in outcomes if o.arrival.tag == it])}" for it in OFFERED)
    return [
        Row(
            "two tenants in one level, one asking ten times as often, both for more than half",
            f"off equal {abs(share / 0.5 - 1):.1%}, fewest waiting {min(fewest.values())} (the one who asks less got "
            f"{share:.1%} of the tokens; {fared})",
            "off equal <= 5%, fewest waiting > 0",
        )
    ]


def _note_fewest(fleet: Fleet, fewest: dict[str, int]) -> None:
    waiting = fleet.gateways[0].get("/api/queue/stats")["targets"]["one"]["low"]["tenants"]
    for tenant in fewest:
        fewest[tenant] = min(fewest[tenant], waiting.get(tenant, {"waiting": 0})["waiting"])


def order(stage: Stage, seconds: float) -> list[Row]:
    operations = 100_000 if seconds >= 300 else 20_000
    found = _alone("bench.order", stage, operations)
    ends = ", ".join(f"{n} {name}" for name, n in sorted(found["ends"].items()))
    return [
        Row(
            f"order: the grants of {operations:,} random operations by three replicas' stores on one Redis, replayed",
            f"inversions {found['inversions']}, grants {found['served']:,} (within a tenant and level; {ends})",
            f"inversions = 0, grants >= {operations // 10:,}",
        )
    ]


def woken(stage: Stage, _: float) -> list[Row]:
    found = _alone("bench.wake", stage, 300)
    (back, back_99, back_worst), (round_, _, round_worst) = found["given back"], found["come round"]
    return [
        Row(
            "from room appearing to the grant in hand of one who waits at another replica",
            f"worst {max(back_worst, round_worst):.1f} ms (quota given back: p50 {back:.1f} ms, p99 {back_99:.1f} ms, "
            f"worst of 300 {back_worst:.1f} ms; a window that has room again: p50 {round_:.1f} ms, worst of 30 "
            f"{round_worst:.1f} ms)",
            "worst <= 50 ms",
        )
    ]


def _alone(module: str, stage: Stage, count: int) -> Any:
    """What a module finds that runs stores of replicas itself, over a Redis of its own."""
    command = [sys.executable, "-m", module, str(stage.redis().port), str(count)]
    return json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200).stdout
    )


def lost_replica(stage: Stage, _: float) -> list[Row]:
    """30 a minute are spent; 50 wait at one replica and 20 behind them at another; the first one dies."""
    ahead, behind, lease = 50, 20, 6.0
    fleet = Fleet(
        stage,
        "{rpm: 30}",
        {"rpm": 30},
        gateways=2,
        extra="queue: {timeout: 280s}\nrequest: {timeout: 300s}",
    )
    first, second = (it.port for it in fleet.gateways)
    spent = Replay([second], [Arrival(index / 15, 10, 5) for index in range(28)])
    began = time.monotonic()
    spent.run()  # and two before the clock started
    with ThreadPoolExecutor(3) as pool:
        pool.submit(Replay([first], [Arrival(index / 50, 10, 5) for index in range(ahead)], 20.0).run)
        time.sleep(2)
        waiting = pool.submit(
            Replay([second], [Arrival(index / 50, 10, 5) for index in range(behind)], 250.0).run
        )
        time.sleep(2)
        before = _depth(fleet, 1)
        fleet.gateways[0].kill()
        killed = time.monotonic()
        while _depth(fleet, 1) > behind and time.monotonic() - killed < 30:
            time.sleep(0.1)
        gone = time.monotonic() - killed
        outcomes = waiting.result()
    longest = max(it.waited for it in outcomes)
    # Without the fifty, the window has room for these twenty one minute after its first requests.
    free = 60 - (killed - 2 - began)
    served = sum(it.status == 200 for it in outcomes)
    return [
        Row(
            f"kill -9 a replica with {ahead} waiters ({before} waiting in all)",
            f"places gone after {gone:.1f} s, longest wait {longest:.1f} s, not served {behind - served} (the {behind} "
            f"behind them; without them the wait is {free:.0f} s; the lease is {lease:.0f} s, a heartbeat 2 s)",
            f"places gone after <= {lease + 2:.0f} s, longest wait <= {free + lease + 2:.0f} s, not served = 0",
        )
    ]


def _depth(fleet: Fleet, gateway: int) -> int:
    levels = fleet.gateways[gateway].get("/api/queue/stats")["targets"]["one"]
    return sum(int(level["waiting"]) for level in levels.values())


def come_back(stage: Stage, _: float) -> list[Row]:
    """A spent window, and callers who do not wait: each is told when to come back, and one does."""
    fleet = Fleet(stage, "{rpm: 60}", {"rpm": 60}, gateways=1, extra="queue: {timeout: 1s}")
    began = time.monotonic()
    Replay([fleet.gateways[0].port], [Arrival(index / 5, 10, 5) for index in range(60)], 5.0).run()
    told: list[tuple[float, float]] = []
    free = 0.0
    while not free:
        at = time.monotonic() - began
        outcome = Replay([fleet.gateways[0].port], [Arrival(0, 10, 5)], 5.0).run()[0]
        if outcome.status == 200:
            free = at + outcome.waited
        else:
            told.append((at, outcome.retry_after))
            time.sleep(min(2.0, max(0.05, outcome.retry_after / 10)))
    # The header is in whole seconds, rounded up: a last second cannot be told to within a fifth.
    errors = [(at + after - free) / (free - at) for at, after in told if free - at > 5]
    worst = max(errors, key=abs)
    return [
        Row(
            "Retry-After of a refusal against when there was room",
            f"off by {abs(worst):.1%} ({len(errors)} refusals, {min(errors):+.1%} to {max(errors):+.1%})",
            "off by <= 20%",
        )
    ]


def many_waiters(stage: Stage, _: float) -> list[Row]:
    """2,000 take what a minute has; 2,000 more wait for the next minute, all on one worker."""
    count = 2000
    fleet = Fleet(
        stage,
        f"{{rpm: {count}}}",
        {"rpm": count},
        gateways=1,
        extra=f"queue: {{capacity: {count + 100}, timeout: 100s}}",
        env={"GEVENT_MONITOR_THREAD_ENABLE": "1", "GEVENT_MAX_BLOCKING_TIME": "0.05"},
    )
    gateway = fleet.gateways[0]
    port, worker = gateway.port, gateway.worker
    body: dict[str, Any] = {"prompt": prompt(20, 1) + " [[out=5]]", "cache": "bypass", "timeout_s": 120}
    raw = msgspec.json.encode(body).decode()
    loader, prober = stage.loader(), stage.loader()
    order = {"port": port, "path": "/api/v1/generate", "body": raw, "mode": "burst", "ramp_s": 12.0}
    first = loader.run(count=count - 1, **order)
    before = worker.memory_info().rss
    blocked = stage.log(gateway).count("appears to be blocked")
    prober.order(port=port, path="/api/health", method="GET", mode="open", rate=20, seconds=70, warm=2)
    loader.order(count=count, **order)
    time.sleep(14)
    waiting = _depth(fleet, 0)
    each = (worker.memory_info().rss - before) / max(1, waiting) / 1024
    second = loader.result()
    health = prober.result()
    wrong = {
        f"{status} {found['sample'][:200]}": n
        for found in (first, second)
        for status, n in found["statuses"].items()
        if status != "200"
    }
    failed = sum(wrong.values()) + first["unanswered"] + second["unanswered"]
    if wrong:
        print(wrong, file=sys.stderr)
    blocked = stage.log(gateway).count("appears to be blocked") - blocked
    return [
        Row(
            "waiters on one worker",
            f"waiting {waiting:,}, failed {failed}, memory {each:.0f} KiB each, blocked for 50 ms {blocked} times "
            f"(health beside them p99 {health['p99_ms']:.0f} ms, at most {health['max_ms']:.0f} ms; the last answer "
            f"{second['max_ms'] / 1000:.0f} s after its request)",
            f"waiting >= {count * 0.95:,.0f}, failed = 0, memory < 64 KiB each, blocked for 50 ms = 0 times",
        )
    ]
