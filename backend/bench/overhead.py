"""What the gateway costs: against direct calls to the simulator, interleaved in one run."""

import json
import statistics
import sys
import time
from typing import Any

from msgspec import Struct

from bench.processes import Child, Loader, Stage
from bench.report import Row

TITLE = "Overhead of one worker"
WHY = (
    "One `knowalledge serve` worker with its quota in Redis, against direct calls to the simulator, interleaved.\n"
    "CPU is user and system time of the worker process. *plain* is a Flask application that answers a constant\n"
    "under the same server and load: it says how fast the machine is. The targets were set where plain takes about\n"
    "0.105 ms. A time is judged twice: by the milliseconds of the machine that measures, and as a ratio, by what it\n"
    "would be *there*, where the targets were set, if plain took as long here. Plain is measured beside each of them."
)
# What `plain` took where the targets were set.
REFERENCE_PLAIN_MS = 0.105
PROMPT = "Explain in three sentences why the sky is blue, and why it is red in the evening. " * 3
CONFIG = """
redis_url: redis://127.0.0.1:{redis}/0
default_model: sim
models:
  sim:
    targets:
      - {{name: one, provider: gemini, model: sim, base_url: "http://127.0.0.1:{sim}", api_key: none,
         quota: {{rpm: 10000000, tpm: 100000000000}}}}
"""
DIRECT = "/v1beta/models/sim"
DIRECT_BODY = json.dumps({"contents": [{"role": "user", "parts": [{"text": PROMPT}]}]})
ASK = {"prompt": PROMPT, "cache": "bypass"}
# The same as a stream, and how its tokens are told from what else comes.
STREAM = {"path": "/api/v1/generate", "body": json.dumps(ASK | {"stream": True}), "token": "event: delta"}
DIRECT_STREAM = {
    "path": f"{DIRECT}:streamGenerateContent?alt=sse",
    "body": DIRECT_BODY,
    "token": 'data: {"cand',
}
IN_FLIGHT = 16
CHUNKS = 20


def run(quick: bool) -> list[Row]:
    with Stage() as stage:
        return Overhead(stage, quick).rows()


class Burst(Struct, frozen=True):
    """What became of many streams at once; milliseconds."""

    failed: int
    cpu_ms: float  # of the worker, each
    gap: float  # p99 between tokens ...
    own_gap: float  # ... and of the provider's own
    first: float  # p50 of the first token after the provider's own ...
    first99: float  # ... and p99
    rss_mb: float
    health: float  # p99


class Overhead:
    """The processes, and each measurement over them."""

    def __init__(self, stage: Stage, quick: bool) -> None:
        self._slice_s = 1.0 if quick else 3.0
        self._rounds = 2 if quick else 5
        self._quick = quick
        self._sim = stage.simulator("--output-tokens", "90")
        self._redis = stage.redis()
        config = CONFIG.format(redis=self._redis.port, sim=self._sim.port)
        self._gateway = stage.gateway(config)
        self._plain = stage.plain()
        self._wrong = 0
        self._plain_ms = 0.0
        self._loader, self._prober = stage.loader(), stage.loader()
        self._idle = (self._gateway.rss_mb(), self._gateway.worker.num_threads())
        self._gateway.post("/api/v1/generate", ASK)

    def rows(self) -> list[Row]:
        rows, saturation = self._saturation()
        rows += self._at_half(saturation)
        rows += self._streams()
        rows += self._many_streams(1000)
        fair = round(1000 * REFERENCE_PLAIN_MS / self._plain_ms / 50) * 50
        if fair < 900:
            rows += self._many_streams(fair, f"what is 1,000 there, {fair} concurrent streams here")
        rows.append(
            Row("answers that were not 200 in all of the above", str(self._wrong), "0", not self._wrong)
        )
        rss, threads = self._idle
        rows.append(
            Row(
                "idle worker without the embedded model",
                f"{rss:.0f} MB, {threads} threads",
                "RSS <= 80 MB, <= 10 threads",
                rss <= 80 and threads <= 10,
            )
        )
        return rows

    def _scaled(self, ms: float) -> str:
        """Milliseconds here, in multiples of plain, and where the targets were set."""
        share, plain = ms / self._plain_ms, self._plain_ms
        return f"{ms:.2f} ms here = {share:.1f} x plain ({plain:.3f}) = {share * REFERENCE_PLAIN_MS:.2f} ms there"

    def _judged(self, *pairs: tuple[float, float]) -> tuple[bool, str]:
        """Whether times are within their limits, both in milliseconds: here, and what is to be said of there."""
        scale = REFERENCE_PLAIN_MS / self._plain_ms
        here = all(ms <= limit for ms, limit in pairs)
        there = all(ms * scale <= limit for ms, limit in pairs)
        return here, "" if here else "as a ratio yes" if there else "nor as a ratio"

    # -- unary -------------------------------------------------------------------------------------------------------

    def _measured(self, child: Child, loader: Loader, **order: Any) -> tuple[float, dict[str, Any]]:
        """CPU milliseconds a request in ``child``'s worker, and what the load generator saw."""
        before = child.cpu()
        found = loader.run(port=child.port, **order)
        spent = child.cpu() - before
        wrong = sum(n for status, n in found["statuses"].items() if status != "200")
        if wrong:
            self._wrong += wrong
            print(f"{wrong} answers were not 200: {found['sample']}", file=sys.stderr)
        return spent * 1000 / found["count"], found

    def _plain_now(self) -> float:
        """What plain takes, measured beside what is set against it."""
        order: dict[str, Any] = {"mode": "closed", "concurrency": IN_FLIGHT, "seconds": self._slice_s}
        return self._measured(self._plain, self._loader, path="/", method="GET", **order)[0]

    def _saturation(self) -> tuple[list[Row], float]:
        order: dict[str, Any] = {"mode": "closed", "concurrency": IN_FLIGHT, "seconds": self._slice_s}
        ask = {"path": "/api/v1/generate", "body": json.dumps(ASK)}
        # As an application would ask again and again: every prompt new, with the cache in the way.
        fresh = [json.dumps({"prompt": f"{PROMPT} {index}"}) for index in range(20_000)]
        cpu: dict[str, list[float]] = {"gateway": [], "plain": [], "redis": [], "fresh": []}
        rates: dict[str, list[float]] = {"gateway": [], "direct": []}
        self._measured(self._gateway, self._loader, **(order | ask))  # warm
        for round_ in range(self._rounds):
            redis_before = self._redis.cpu()
            spent, found = self._measured(self._gateway, self._loader, **(order | ask))
            cpu["redis"].append((self._redis.cpu() - redis_before) * 1000 / found["count"])
            cpu["gateway"].append(spent)
            rates["gateway"].append(found["rate"])
            cpu["plain"].append(self._plain_now())
            direct = {"path": f"{DIRECT}:generateContent", "body": DIRECT_BODY}
            _, found = self._measured(self._sim, self._loader, **(order | direct))
            rates["direct"].append(found["rate"])
            part = fresh[round_ * 3000 : (round_ + 1) * 3000]
            half = order | {"seconds": self._slice_s / 2, "path": "/api/v1/generate", "bodies": part}
            spent, _ = self._measured(self._gateway, self._loader, **half)
            cpu["fresh"].append(spent)
        ours, plain, redis, miss = (
            statistics.median(cpu[name]) for name in ("gateway", "plain", "redis", "fresh")
        )
        self._plain_ms = plain
        rate = statistics.median(rates["gateway"])
        rows = [
            Row(
                f"unary, quota checked in Redis, {IN_FLIGHT} in flight: CPU in the worker",
                f"{self._scaled(ours)}; Redis itself {redis:.3f} ms",
                "<= 0.45 ms",
                *self._judged((ours, 0.45)),
            ),
            Row("the same with new prompts and the cache on", f"{miss:.3f} ms"),
            Row(
                "requests/s per core of one worker",
                f"{1000 / ours:.0f} by CPU; {rate:.0f} reached beside the simulator, Redis and the load generator; "
                f"plain {1000 / plain:.0f}; direct {statistics.median(rates['direct']):.0f}",
            ),
        ]
        return rows, rate

    def _at_half(self, saturation: float) -> list[Row]:
        rate = saturation / 2
        order: dict[str, Any] = {"mode": "open", "rate": rate, "seconds": self._slice_s, "warm": 32}
        ask = {"path": "/api/v1/generate", "body": json.dumps(ASK)}
        direct = {"path": f"{DIRECT}:generateContent", "body": DIRECT_BODY}
        seen: dict[str, list[float]] = {"p50": [], "p99": [], "cpu": [], "health": [], "plain": []}
        for round_ in range(self._rounds):
            seen["plain"].append(self._plain_now())
            self._probe(self._slice_s)
            spent, ours = self._measured(self._gateway, self._loader, **(order | ask | {"seed": round_}))
            seen["health"].append(self._probed())
            _, theirs = self._measured(self._sim, self._loader, **(order | direct | {"seed": round_}))
            seen["cpu"].append(spent)
            seen["p50"].append(ours["p50_ms"] - theirs["p50_ms"])
            seen["p99"].append(ours["p99_ms"] - theirs["p99_ms"])
        p50, p99, cpu, health, self._plain_ms = (statistics.median(it) for it in seen.values())
        return [
            Row(
                f"unary at half of saturation ({rate:.0f}/s, random arrivals): added p50, p99",
                f"{self._scaled(p50)}; {self._scaled(p99)} (CPU {cpu:.3f} ms)",
                "<= 1 ms, <= 5 ms",
                *self._judged((p50, 1), (p99, 5)),
            ),
            Row(
                "/api/health and /api/ready beside that load: p99",
                self._scaled(health),
                "< 10 ms",
                *self._judged((health, 10)),
            ),
        ]

    def _probe(self, seconds: float, rate: float = 80.0) -> None:
        """Ask for health and readiness in turn, from another process, while something else runs."""
        for path in ("/api/health", "/api/ready"):
            self._prober.order(
                port=self._gateway.port,
                path=path,
                method="GET",
                mode="open",
                rate=rate,
                seconds=seconds / 2,
                warm=2,
            )

    def _probed(self) -> float:
        return max(float(self._prober.result()["p99_ms"]) for _ in range(2))

    # -- streams -----------------------------------------------------------------------------------------------------

    def _streams(self) -> list[Row]:
        self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 5})
        rate = 60.0
        order: dict[str, Any] = {"mode": "open", "rate": rate, "seconds": self._slice_s, "warm": 32}
        seen: dict[str, list[float]] = {"cpu": [], "first": [], "first99": [], "plain": []}
        for round_ in range(self._rounds):
            seen["plain"].append(self._plain_now())
            spent, ours = self._measured(self._gateway, self._loader, **(order | STREAM | {"seed": round_}))
            _, theirs = self._measured(self._sim, self._loader, **(order | DIRECT_STREAM | {"seed": round_}))
            self._wrong += sum(n for tokens, n in ours["tokens"].items() if tokens != str(CHUNKS))
            seen["cpu"].append(spent)
            seen["first"].append(ours["first_p50_ms"] - theirs["first_p50_ms"])
            seen["first99"].append(ours["first_p99_ms"] - theirs["first_p99_ms"])
        cpu, first, first99, self._plain_ms = (statistics.median(it) for it in seen.values())
        return [
            Row(
                f"stream of {CHUNKS} chunks, 5 ms apart ({rate:.0f} streams/s): CPU in the worker",
                self._scaled(cpu),
                "<= 1.2 ms",
                *self._judged((cpu, 1.2)),
            ),
            Row(
                "the same: first token added p50 (p99)",
                f"{self._scaled(first)} ({first99:.2f} ms)",
                "p50 <= 1.5 ms",
                *self._judged((first, 1.5)),
            ),
        ]

    def _many_streams(self, count: int, what: str = "") -> list[Row]:
        """All are open at once: they start over 1.5 s, and the provider thinks for 2 s before its first token.

        Of three times the median.
        """
        what = what or f"{count:,} concurrent streams"
        self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 50, "latency_ms": 2000})
        runs = [self._burst(count) for _ in range(1 if self._quick else 3)]
        self._sim.post("/_control", {"token_ms": 0, "latency_ms": 0})
        failed, peak = sum(it.failed for it in runs), max(it.rss_mb for it in runs)
        names = ("cpu_ms", "gap", "own_gap", "first", "first99", "health")
        spent, gap, own, first, first99, health = (
            statistics.median(getattr(it, name) for it in runs) for name in names
        )
        return [
            Row(
                f"{what} of {CHUNKS} tokens at 50 ms: failed",
                f"{failed} (CPU {spent:.2f} ms each)",
                "0",
                failed == 0,
            ),
            Row(
                "the same: token gaps p99, against the provider's own",
                f"{gap:.0f} ms / {own:.0f} ms = {gap / own:.2f}",
                "<= 2",
                gap <= 2 * own,
            ),
            Row(
                "the same: first token p50 (p99) after the provider's own",
                f"{first:.0f} ms ({first99:.0f} ms)",
            ),
            Row("the same: worker's RSS", f"{peak:.0f} MB", "< 250 MB", peak < 250),
            Row(
                "/api/health and /api/ready beside the streams: p99",
                self._scaled(health),
                "< 10 ms",
                *self._judged((health, 10)),
            ),
        ]

    def _burst(self, count: int) -> Burst:
        order: dict[str, Any] = {"mode": "burst", "count": count, "ramp_s": 1.5}
        theirs = self._loader.run(port=self._sim.port, **order, **DIRECT_STREAM)
        time.sleep(1)
        self._probe(4.0)
        before = self._gateway.cpu()
        self._loader.order(port=self._gateway.port, **order, **STREAM)
        peak = 0.0
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            peak = max(peak, self._gateway.rss_mb())
            time.sleep(0.1)
        ours = self._loader.result()
        return Burst(
            failed=count - ours["tokens"].get(str(CHUNKS), 0),
            cpu_ms=(self._gateway.cpu() - before) * 1000 / count,
            gap=ours["gap_p99_ms"],
            own_gap=theirs["gap_p99_ms"],
            first=ours["first_p50_ms"] - theirs["first_p50_ms"],
            first99=ours["first_p99_ms"] - theirs["first_p99_ms"],
            rss_mb=peak,
            health=self._probed(),
        )
