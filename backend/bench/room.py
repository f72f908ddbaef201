"""The waiting room under overload: how long which requests wait."""

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

from bench.fleet import Arrival, Fleet, Outcome, ProviderStats, Replay, prompt, summary_of, trace
from bench.load import quantile
from bench.processes import Stage
from bench.quota import LIMITS, QUOTA, TPM, in_parallel
from bench.report import Row

TITLE = "The waiting room"
WHY = """\
The same quota, provider and trace as above.
Waits are those that the gateway reports (`queue.waited_ms`); of three fleets the median counts."""
# The load of each tenant as a multiple of the quota: both exceed their half.
OFFERED = {"light": 0.75, "heavy": 7.5}
TITLE_WAITERS = "Many waiters on one worker"
WHY_WAITERS = """\
A quota of 2,000 a minute is spent, then 2,000 requests wait for the next minute.
The event loop counts as blocked when gevent's monitor, a native thread in the worker, says so."""


def run(quick: bool) -> list[Row]:
    seconds = 150.0 if quick else 300.0
    # `order` runs by itself: it takes a whole core and would disturb the measured times.
    return in_parallel([by_priority, tenants, lost_replica, come_back, woken], seconds) + in_parallel(
        [order], seconds
    )


def run_waiters(_: bool) -> list[Row]:
    return in_parallel([many_waiters], 0.0)


class PriorityRun(Struct, frozen=True):
    """The outcomes of one fleet under a mix of priorities."""

    high: list[Outcome]
    low: list[Outcome]
    settled: ProviderStats  # without the first minute
    total: ProviderStats

    @property
    def served(self) -> int:
        """HIGH requests that were answered completely."""
        return sum(it.status == 200 and "finish_reason" in it.body for it in self.high)

    def wait_quantile(self, share: float) -> float:
        """A quantile of the waits of HIGH, in seconds."""
        return quantile([it.waited for it in self.high if it.status == 200], share)


def by_priority(_: Stage, seconds: float) -> list[Row]:
    """Three equal fleets in parallel: the provider's latencies differ between them."""
    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(_run_priorities, [seconds] * 3))
    by_wait = sorted(runs, key=lambda it: it.wait_quantile(0.95))
    by_use = sorted(runs, key=lambda it: it.settled.use)
    p95s, uses = [it.wait_quantile(0.95) for it in by_wait], [it.settled.use for it in by_use]
    served, sent = sum(it.served for it in runs), sum(len(it.high) for it in runs)
    # Of the LOW requests whose first ETA was 5 s or more, and which were served.
    ratios = [
        it.waited / it.body["first_queued"]["eta_s"]
        for run in runs
        for it in run.low
        if it.status == 200 and it.waited and it.body.get("first_queued", {}).get("eta_s", 0) >= 5
    ]
    accurate = sum(0.8 <= it <= 1.25 for it in ratios) / max(1, len(ratios))
    return [
        Row(
            "20% HIGH + 80% LOW at three times the quota, three fleets: HIGH",
            f"p95 wait {p95s[1]:.2f} s, not served {sent - served} ({p95s[0]:.2f} to {p95s[2]:.2f} s; "
            f"p50 {by_wait[1].wait_quantile(0.5):.2f} s; {sent} asked)",
            "p95 wait <= 1.5 s, not served = 0",
        ),
        Row(
            "the same: the provider",
            f"refused {sum(it.total.rejected for it in runs)}, use {uses[1]:.1%} ({uses[0]:.1%} to {uses[2]:.1%}; "
            f"{by_use[1].settled.summary()}; LOW: {summary_of(by_use[1].low)})",
            "refused = 0, use >= 98%",
        ),
        Row(
            "the same: time told to LOW on entering against the real wait",
            f"median ratio {statistics.median(ratios or [0]):.2f}; {accurate:.0%} of {len(ratios)} within 20%",
        ),
    ]


def _run_priorities(seconds: float) -> PriorityRun:
    with Stage() as stage:
        fleet = Fleet(stage, QUOTA, LIMITS)
        rng = Random(4)
        arrivals = [
            msgspec.structs.replace(it, headers={"X-Priority": level}, tag=level)
            for it in trace(3 * TPM, seconds, seed=4)
            for level in rng.choices(("high", "low"), (1, 4))
        ]
        outcomes = Replay([it.port for it in fleet.gateways], arrivals, body={"stream": True}).run()
        return PriorityRun(
            [it for it in outcomes if it.arrival.tag == "high"],
            [it for it in outcomes if it.arrival.tag == "low"],
            fleet.stats(60, seconds),
            fleet.stats(0, seconds),
        )


def tenants(stage: Stage, seconds: float) -> list[Row]:
    """Two tenants that always wait: the queue holds more than a window serves, and callers wait long enough.

    At the low level, because that is paced: at others a minute's quota is granted within one second.
    """
    tpm = TPM // 2  # half of the other cases' limit; the load is eight times the limit
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
    filled = min(60.0, seconds / 2)  # until the queue is full
    fewest = dict.fromkeys(OFFERED, 1 << 30)
    for index in range(int(seconds - filled)):
        replay.schedule(filled + index, partial(_note_fewest, fleet, fewest))
    outcomes = replay.run()
    tokens = dict.fromkeys(OFFERED, 0)
    for outcome in outcomes:
        if outcome.status == 200 and filled < outcome.ended < seconds:
            usage = outcome.body["usage"]
            tokens[outcome.arrival.tag] += usage["input_tokens"] + usage["output_tokens"]
    share = tokens["light"] / max(1, sum(tokens.values()))
    summaries = "; ".join(
        f"{it}: {summary_of([o for o in outcomes if o.arrival.tag == it])}" for it in OFFERED
    )
    return [
        Row(
            "two tenants in one level, one asking ten times as often, both for more than half",
            f"off equal {abs(share / 0.5 - 1):.1%}, fewest waiting {min(fewest.values())} (the one who asks less got "
            f"{share:.1%} of the tokens; {summaries})",
            "off equal <= 5%, fewest waiting > 0",
        )
    ]


def _note_fewest(fleet: Fleet, fewest: dict[str, int]) -> None:
    waiting = fleet.gateways[0].get("/api/queue/stats")["targets"]["one"]["low"]["tenants"]
    for tenant in fewest:
        fewest[tenant] = min(fewest[tenant], waiting.get(tenant, {"waiting": 0})["waiting"])


def order(stage: Stage, seconds: float) -> list[Row]:
    operations = 100_000 if seconds >= 300 else 20_000
    result = _run_module("bench.order", stage, operations)
    ends = ", ".join(f"{n} {name}" for name, n in sorted(result["ends"].items()))
    return [
        Row(
            f"order: the grants of {operations:,} random operations by three replicas' stores on one Redis, replayed",
            f"inversions {result['inversions']}, grants {result['served']:,} (within a tenant and level; {ends})",
            f"inversions = 0, grants >= {operations // 10:,}",
        )
    ]


def woken(stage: Stage, _: float) -> list[Row]:
    result = _run_module("bench.wake", stage, 300)
    released, expired = result["after_release"], result["after_expiry"]
    (back, back_99, back_worst), (round_, _, round_worst) = released, expired
    return [
        Row(
            "from room appearing to the grant in hand of one who waits at another replica",
            f"worst {max(back_worst, round_worst):.1f} ms (quota given back: p50 {back:.1f} ms, p99 {back_99:.1f} ms, "
            f"worst of 300 {back_worst:.1f} ms; a window that has room again: p50 {round_:.1f} ms, worst of 30 "
            f"{round_worst:.1f} ms)",
            "worst <= 50 ms",
        )
    ]


def _run_module(module: str, stage: Stage, count: int) -> Any:
    """The JSON result of a module that runs the stores of several replicas, over a Redis of its own."""
    command = [sys.executable, "-m", module, str(stage.redis().port), str(count)]
    return json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=1200).stdout
    )


def lost_replica(stage: Stage, _: float) -> list[Row]:
    """30 requests a minute are used up; 50 wait at one replica and 20 behind them at another; the first is killed."""
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
    started = time.monotonic()
    spent.run()  # two more were sent while the fleet started
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
    # Without the fifty, the twenty fit one minute after the window's first requests.
    free = 60 - (killed - 2 - started)
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
    """Compare the Retry-After of refusals with the time at which a request was served."""
    fleet = Fleet(stage, "{rpm: 60}", {"rpm": 60}, gateways=1, extra="queue: {timeout: 1s}")
    started = time.monotonic()
    Replay([fleet.gateways[0].port], [Arrival(index / 5, 10, 5) for index in range(60)], 5.0).run()
    refusals: list[tuple[float, float]] = []  # (time, Retry-After)
    free = 0.0
    while not free:
        at = time.monotonic() - started
        outcome = Replay([fleet.gateways[0].port], [Arrival(0, 10, 5)], 5.0).run()[0]
        if outcome.status == 200:
            free = at + outcome.waited
        else:
            refusals.append((at, outcome.retry_after))
            time.sleep(min(2.0, max(0.05, outcome.retry_after / 10)))
    # The header has whole seconds, rounded up: within the last 5 s it cannot be accurate to 20%.
    errors = [(at + after - free) / (free - at) for at, after in refusals if free - at > 5]
    worst = max(errors, key=abs)
    return [
        Row(
            "Retry-After of a refusal against when there was room",
            f"off by {abs(worst):.1%} ({len(errors)} refusals, {min(errors):+.1%} to {max(errors):+.1%})",
            "off by <= 20%",
        )
    ]


def many_waiters(stage: Stage, _: float) -> list[Row]:
    """2,000 requests use up a minute's quota; 2,000 more wait for the next minute, all on one worker."""
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
    job = {"port": port, "path": "/api/v1/generate", "body": raw, "mode": "burst", "ramp_s": 12.0}
    first = loader.run(count=count - 1, **job)
    before = worker.memory_info().rss
    blocked = stage.log(gateway).count("appears to be blocked")
    prober.start(port=port, path="/api/health", method="GET", mode="open", rate=20, seconds=70, warm=2)
    loader.start(count=count, **job)
    time.sleep(14)
    waiting = _depth(fleet, 0)
    memory = (worker.memory_info().rss - before) / max(1, waiting) / 1024
    second = loader.result()
    health = prober.result()
    errors = {
        f"{status} {result['sample'][:200]}": n
        for result in (first, second)
        for status, n in result["statuses"].items()
        if status != "200"
    }
    failed = sum(errors.values()) + first["unanswered"] + second["unanswered"]
    if errors:
        print(errors, file=sys.stderr)
    blocked = stage.log(gateway).count("appears to be blocked") - blocked
    return [
        Row(
            "waiters on one worker",
            f"waiting {waiting:,}, failed {failed}, memory {memory:.0f} KiB each, blocked for 50 ms {blocked} times "
            f"(health beside them p99 {health['p99_ms']:.0f} ms, at most {health['max_ms']:.0f} ms; the last answer "
            f"{second['max_ms'] / 1000:.0f} s after its request)",
            f"waiting >= {count * 0.95:,.0f}, failed = 0, memory < 64 KiB each, blocked for 50 ms = 0 times",
        )
    ]
