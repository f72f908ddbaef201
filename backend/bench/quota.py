"""One provider quota, spent by three gateways, against the simulator with its exact sliding windows."""

import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from bench.fleet import Fleet, Replay, restart, summary_of, trace
from bench.processes import Stage
from bench.report import Row

TITLE = "One quota, three replicas"
WHY = """\
Three `knowalledge serve` processes and one Redis serve the trace in `backend/bench/data` at three times the quota.
The provider takes a lognormal 0.4 s (sigma 0.8, every fiftieth call ten times as long) and 4 ms a token.
Requests reach it 25 ms late (median; sigma 0.6).
It counts in exact 60 s windows: input on arrival, output at completion.
A caller whose connection breaks goes to another replica, as behind a load balancer.
*Use* is the share of the provider's limit after the first minute, in the window that binds.
*Refused* counts the provider's 429s."""
TITLE_LEARN = "A limit that nobody publishes"
WHY_LEARN = """\
`quota: learn` on three replicas at three times the highest limit.
The true limit moves, and the provider's refusals name neither quota nor time, as Vertex AI's do."""
TITLE_COST = "What a grant costs"
WHY_COST = "A replica's quota stores and their Redis without the rest, under a manual clock.\nThe best of five rounds."
RPM, TPM = 300, 100_000
QUOTA = f"[{{count: requests, limit: {RPM}, window: 60s}}, {{count: tokens, limit: {TPM}, window: 60s}}]"
LIMITS = {
    "rpm": RPM,
    "tpm": TPM,
    "latency_ms": 400,
    "latency_sigma": 0.8,
    "tail_p": 0.02,
    "tail_x": 10,
    "token_ms": 4,
    "transit_ms": 25,
    "transit_sigma": 0.6,
}
# p99 / p50 = 20.
UNPREDICTABLE = {"marker": False, "output_tokens": 65, "output_sigma": 1.288, "token_ms": 2}
FAULT_AT = 90.0
FREEZE_S = 10.0

Case = Callable[[Stage, float], list[Row]]


def run(quick: bool) -> list[Row]:
    """The cases that take minutes run in parallel: each mostly waits."""
    return in_parallel([steady, unpredictable, killed, emptied, frozen], 150.0 if quick else 300.0)


def run_learn(quick: bool) -> list[Row]:
    return in_parallel([learnt], 360.0 if quick else 540.0)


def run_cost(_: bool) -> list[Row]:
    return in_parallel([cost], 0.0)


def in_parallel(cases: list[Case], seconds: float) -> list[Row]:
    """The rows of all cases; each has processes of its own."""
    with ThreadPoolExecutor(len(cases)) as pool:
        results = list(pool.map(lambda case: _run_case(case, seconds), cases))
    return [row for rows in results for row in rows]


def _run_case(case: Case, seconds: float) -> list[Row]:
    with Stage() as stage:
        rows = case(stage, seconds)
        for row in rows:
            print(f"{row.case}: {row.measured}", file=sys.stderr, flush=True)
        return rows


def steady(stage: Stage, seconds: float) -> list[Row]:
    fleet = Fleet(stage, QUOTA, LIMITS)
    outcomes = Replay([it.port for it in fleet.gateways], trace(3 * TPM, seconds)).run()
    settled, total = fleet.stats(60, seconds), fleet.stats(0, seconds)
    return [
        Row(
            f"RPM and TPM, {seconds / 60:.0f} minutes",
            f"refused {total.rejected}, use {settled.use:.1%} ({settled.summary()}; {summary_of(outcomes)})",
            "refused = 0, use >= 98%",
        )
    ]


def unpredictable(stage: Stage, seconds: float) -> list[Row]:
    fleet = Fleet(stage, QUOTA, LIMITS | UNPREDICTABLE)
    arrivals = trace(3 * TPM, seconds, seed=2)
    outcomes = Replay([it.port for it in fleet.gateways], arrivals).run()
    settled, total = fleet.stats(60, seconds), fleet.stats(0, seconds)
    return [
        Row(
            "the same with output lengths drawn apart from the prompt (p99/p50 = 20)",
            f"refused {total.refused:.2%}, use {settled.use:.1%} ({settled.summary()}; {summary_of(outcomes)})",
            "refused <= 0.1%, use >= 95%",
        )
    ]


def _with_fault(stage: Stage, name: str, inject: Callable[[Fleet], None], lasts_s: float = 0.0) -> list[Row]:
    """Inject a fault after 90 s. The minute after it has a loose target, the next one the normal target."""
    fleet = Fleet(stage, QUOTA, LIMITS)
    healed = FAULT_AT + lasts_s
    seconds = healed + 130
    replay = Replay([it.port for it in fleet.gateways], trace(3 * TPM, seconds, seed=3))
    replay.schedule(FAULT_AT, lambda: inject(fleet))
    outcomes = replay.run()
    during, after = fleet.stats(FAULT_AT, healed + 60), fleet.stats(healed + 60, healed + 120)
    lost = sum(it.status == 0 for it in outcomes) + len(trace(3 * TPM, seconds, seed=3)) - len(outcomes)
    moved = sum(it.tries > 1 for it in outcomes)
    return [
        Row(
            f"{name}: the minute after",
            f"refused {during.refused:.2%}, without an answer {lost} ({during.summary()}; {moved} taken to another "
            f"replica; {summary_of(outcomes)})",
            "refused <= 1%, without an answer = 0",
        ),
        Row(
            f"{name}: the minute after that",
            f"refused {after.rejected}, use {after.use:.1%} ({after.summary()})",
            "refused = 0, use >= 95%",
        ),
    ]


def killed(stage: Stage, _: float) -> list[Row]:
    return _with_fault(stage, "kill -9 one replica of three", lambda fleet: fleet.gateways[0].kill())


def emptied(stage: Stage, _: float) -> list[Row]:
    return _with_fault(stage, "Redis restarts empty", lambda fleet: restart(stage, fleet.redis))


def frozen(stage: Stage, _: float) -> list[Row]:
    def freeze(fleet: Fleet) -> None:
        fleet.redis.signal(signal.SIGSTOP)
        time.sleep(FREEZE_S)
        fleet.redis.signal(signal.SIGCONT)

    return _with_fault(stage, "Redis frozen for 10 s", freeze, FREEZE_S)


def learnt(stage: Stage, seconds: float) -> list[Row]:
    """The limit is not configured, and changes; 429 responses name neither quota nor time, as those of Vertex AI."""
    each = seconds / 3
    limits = [(0.0, 100), (each, 40), (2 * each, 160)]
    fleet = Fleet(stage, "learn", LIMITS | {"rpm": 100, "tpm": 0, "bare_429": True})
    # Three times the highest limit; the trace's mean is about 400 tokens.
    replay = Replay([it.port for it in fleet.gateways], trace(3 * 160 * 404, 3 * each, seed=5))
    for at, limit in limits[1:]:
        replay.schedule(at, partial(fleet.set_knobs, rpm=limit))
    ceilings: dict[int, float] = {}
    for at, limit in limits:
        replay.schedule(at + 60, partial(_note_ceiling, fleet, ceilings, limit))
    outcomes = replay.run()
    rows = []
    rejected = calls = 0
    for at, limit in limits:
        stats = fleet.stats(at + 60, at + each)
        rejected += stats.rejected
        calls += stats.rejected + stats.accepted
        rate = stats.accepted / (each - 60) * 60
        rows.append(
            Row(
                f"`quota: learn`, the true limit is {'at first' if not at else 'then'} {limit} RPM",
                f"ceiling off by {abs(ceilings[limit] / limit - 1):.1%}, refused {stats.refused:.1%} (a minute later "
                f"the ceiling is {ceilings[limit]:.0f}; from then on {rate:.0f} a minute accepted; {stats.rejected} "
                f"of {stats.rejected + stats.accepted} calls refused)",
                "ceiling off by <= 15%, refused <= 3%",
            )
        )
    share = rejected / max(1, calls)
    measured = f"refused {share:.1%} ({rejected} of {calls} calls; {summary_of(outcomes)})"
    rows.append(Row("the same, more than a minute after each move", measured, "refused <= 3%"))
    return rows


def _note_ceiling(fleet: Fleet, ceilings: dict[int, float], limit: int) -> None:
    windows = fleet.gateways[0].get("/api/quota/stats")["targets"]["one"]["windows"]
    # Scaled to a minute, whatever the window's span.
    ceilings[limit] = min(
        (it["limit"] * 60 / it.get("span_s", 60) for it in windows if it["count"] == "requests"), default=0.0
    )


def cost(stage: Stage, _: float) -> list[Row]:
    redis = stage.redis()
    command = [sys.executable, "-m", "bench.cost", str(redis.port)]
    result = json.loads(
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout
    )
    few, many = result["10"], result["10000"]
    sums = [it["process_us"] + it["redis_us"] for it in (few, many)]
    ratio = max(sums) / min(sums)
    return [
        Row(
            "CPU of one grant + settle, one at a time, four windows, the mirror included: at 10,000 a minute",
            f"{ratio:.2f} x that at 10 a minute ({many['process_us']:.0f} us in the process + {many['redis_us']:.0f} "
            f"us in Redis; at 10 a minute {few['process_us']:.0f} + {few['redis_us']:.0f})",
            "<= 1.3 x that at 10 a minute",
        ),
        Row(
            "memory in Redis of a target with four windows",
            f"{many['bytes'] / 1024:.0f} KiB, {abs(many['bytes'] / few['bytes'] - 1):.0%} from that at 10 a minute",
            "< 200 KiB, < 10% from that at 10 a minute",
        ),
    ]
