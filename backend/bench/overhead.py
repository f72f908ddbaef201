"""CPU and latency that the gateway adds to direct calls of the simulator, interleaved in one run."""

import json
import math
import statistics
import sys
import time
from collections.abc import Sequence
from typing import Any

from msgspec import Struct
from msgspec.structs import astuple

from bench.processes import Child, Loader, Stage
from bench.report import Row
from bench.steal import undisturbed

TITLE = "Overhead of one worker"
WHY = """\
One `knowalledge serve` worker with its quota in Redis, against direct calls to the simulator, interleaved.
CPU is user and system time of the worker process.

*plain* is the CPU time of a Flask application that answers a constant under the same server: the speed of the machine.
Times are judged in multiples of plain, so that the targets mean the same on every machine.
They were set in milliseconds where plain took 0.105 ms: 0.45 ms there is 4.2 x plain, rounded down.

A request that arrives alone finds the processor's caches cold and takes two to three times as long as one of many.
The same holds for plain, so plain is measured beside each row under a load of the same kind.
That is as many requests in flight, or as many a second at random moments; each chunk of a stream counts as a request.

At half of saturation the worker has a core to itself and everything else shares the others.
Rounds in which the host gave more than 3% of the processors' time to other machines (steal) are repeated."""
# CPU milliseconds of plain on the machine on which the targets were set.
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
# The same as a stream, with the marker of one token.
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


class Scale(Struct, frozen=True):
    """The speed of this machine under one kind of load: CPU milliseconds of plain."""

    plain_ms: float

    def ratio(self, ms: float) -> str:
        """A time as a multiple of plain."""
        return f"{ms / self.plain_ms:.1f} x plain"

    def division(self, *ms: float) -> str:
        """The times behind the multiples, and that of plain."""
        return f"{', '.join(f'{it:.2f}' for it in ms)} ms; plain {self.plain_ms:.3f} ms"

    def streams(self) -> int:
        """The number of streams that is for this machine what 1,000 were where the targets were set."""
        return round(1000 * REFERENCE_PLAIN_MS / self.plain_ms / 50) * 50


def times_plain(ms: float) -> str:
    """A limit in milliseconds, as set where plain took 0.105 ms, as a multiple of plain; rounded down."""
    return f"{math.floor(ms / REFERENCE_PLAIN_MS * 10) / 10:.1f} x plain"


class HalfLoad(Struct, frozen=True):
    """One round at half of saturation, in milliseconds."""

    plain: float
    cpu: float
    p50: float
    p99: float
    health: float


class Burst(Struct, frozen=True):
    """One round of many concurrent streams; times in milliseconds."""

    failed: int
    cpu_ms: float  # of the worker, per stream
    gap: float  # p99 between tokens
    direct_gap: float  # the same without the gateway
    first: float  # p50 of the time to the first token, less that without the gateway
    first99: float  # the same at p99
    rss_mb: float
    health: float  # p99


def _medians(rounds: Sequence[Struct]) -> tuple[float, ...]:
    """The median of each field."""
    return tuple(statistics.median(it) for it in zip(*map(astuple, rounds), strict=True))


class Overhead:
    """The processes and the measurements."""

    def __init__(self, stage: Stage, quick: bool) -> None:
        self._stage = stage
        self._slice_s = 1.0 if quick else 3.0
        self._rounds = 2 if quick else 5
        self._quick = quick
        self._sim = stage.simulator("--output-tokens", "90")
        self._redis = stage.redis()
        config = CONFIG.format(redis=self._redis.port, sim=self._sim.port)
        self._gateway = stage.gateway(config)
        self._plain = stage.plain()
        self._errors = 0
        self._loader, self._prober = stage.loader(), stage.loader()
        self._idle = (self._gateway.rss_mb(), self._gateway.worker.num_threads())
        self._gateway.post("/api/v1/generate", ASK)

    def rows(self) -> list[Row]:
        rows, saturation, scale = self._saturation()
        rows += self._at_half(saturation)
        rows += self._streams()
        rows += self._many_streams(1000, scale)
        if scale.streams() < 900:
            rows += self._many_streams(scale.streams(), scale, " (1,000 at 0.105 ms for plain)")
        rows.append(Row("answers that were not 200 in all of the above", str(self._errors), "= 0"))
        rss, threads = self._idle
        rows.append(
            Row(
                "idle worker without the embedded model",
                f"RSS {rss:.0f} MB, {threads} threads",
                "RSS <= 80 MB, <= 10 threads",
            )
        )
        return rows

    # -- unary ---------------------------------------------------------------------------------------------------------

    def _run(self, child: Child, loader: Loader, **job: Any) -> tuple[float, dict[str, Any]]:
        """CPU milliseconds per request of ``child``'s worker, and the load generator's result."""
        before = child.cpu()
        result = loader.run(port=child.port, **job)
        spent = child.cpu() - before
        errors = sum(n for status, n in result["statuses"].items() if status != "200")
        if errors:
            self._errors += errors
            print(f"{errors} answers were not 200: {result['sample']}", file=sys.stderr)
        return spent * 1000 / result["count"], result

    def _plain_cpu(self, **load: Any) -> float:
        """CPU milliseconds of plain under the kind of load that it is compared with."""
        return self._run(self._plain, self._loader, path="/", method="GET", **load)[0]

    def _closed_load(self) -> dict[str, Any]:
        return {"mode": "closed", "concurrency": IN_FLIGHT, "seconds": self._slice_s}

    def _open_load(self, rate: float) -> dict[str, Any]:
        return {"mode": "open", "rate": rate, "seconds": self._slice_s, "warm": 32}

    def _saturation(self) -> tuple[list[Row], float, Scale]:
        load = self._closed_load()
        ask = {"path": "/api/v1/generate", "body": json.dumps(ASK)}
        # Every prompt is new, and the cache is on: each request is a cache miss.
        fresh = [json.dumps({"prompt": f"{PROMPT} {index}"}) for index in range(20_000)]
        cpu: dict[str, list[float]] = {"gateway": [], "plain": [], "redis": [], "fresh": []}
        rates: dict[str, list[float]] = {"gateway": [], "direct": []}
        self._run(self._gateway, self._loader, **(load | ask))  # warm
        for round_ in range(self._rounds):
            redis_before = self._redis.cpu()
            spent, result = self._run(self._gateway, self._loader, **(load | ask))
            cpu["redis"].append((self._redis.cpu() - redis_before) * 1000 / result["count"])
            cpu["gateway"].append(spent)
            rates["gateway"].append(result["rate"])
            cpu["plain"].append(self._plain_cpu(**load))
            direct = {"path": f"{DIRECT}:generateContent", "body": DIRECT_BODY}
            _, result = self._run(self._sim, self._loader, **(load | direct))
            rates["direct"].append(result["rate"])
            part = fresh[round_ * 3000 : (round_ + 1) * 3000]
            half = load | {"seconds": self._slice_s / 2, "path": "/api/v1/generate", "bodies": part}
            spent, _ = self._run(self._gateway, self._loader, **half)
            cpu["fresh"].append(spent)
        gateway, plain, redis, miss = (
            statistics.median(cpu[name]) for name in ("gateway", "plain", "redis", "fresh")
        )
        scale = Scale(plain)
        rate = statistics.median(rates["gateway"])
        rows = [
            Row(
                f"unary, quota checked in Redis, zero-latency provider, {IN_FLIGHT} in flight: CPU in the worker",
                f"{scale.ratio(gateway)} ({scale.division(gateway)}; Redis itself {redis:.3f} ms)",
                f"<= {times_plain(0.45)}",
            ),
            Row("the same with new prompts and the cache on", f"{miss:.3f} ms"),
            Row(
                "requests/s per core of one worker",
                f"{1000 / gateway:.0f} by CPU; {rate:.0f} reached beside the simulator, Redis and the load generator; "
                f"plain {1000 / plain:.0f}; direct {statistics.median(rates['direct']):.0f}",
            ),
        ]
        return rows, rate, scale

    def _at_half(self, saturation: float) -> list[Row]:
        load = self._open_load(saturation / 2)
        ask = {"path": "/api/v1/generate", "body": json.dumps(ASK)}
        direct = {"path": f"{DIRECT}:generateContent", "body": DIRECT_BODY}

        def measure(round_: int) -> HalfLoad:
            seed = {"seed": round_}
            plain = self._plain_cpu(**load, **seed)
            self._start_probe(self._slice_s)
            spent, added = self._run(self._gateway, self._loader, **(load | ask | seed))
            health = self._probe_p99()
            _, base = self._run(self._sim, self._loader, **(load | direct | seed))
            p50, p99 = (added[name] - base[name] for name in ("p50_ms", "p99_ms"))
            return HalfLoad(plain, spent, p50, p99, health)

        with self._stage.isolated(self._gateway, self._plain):
            rounds = undisturbed(self._rounds, measure)
        plain, cpu, p50, p99, health = _medians(rounds.results)
        scale = Scale(plain)
        return [
            Row(
                f"unary at half of saturation ({saturation / 2:.0f}/s, random arrivals): added p50, p99",
                f"p50 {scale.ratio(p50)}, p99 {scale.ratio(p99)} ({scale.division(p50, p99)}; CPU {cpu:.3f} ms; "
                f"{rounds})",
                f"p50 <= {times_plain(1)}, p99 <= {times_plain(5)}",
            ),
            Row(
                "/api/health and /api/ready beside that load: p99",
                f"{scale.ratio(health)} ({scale.division(health)})",
                f"< {times_plain(10)}",
            ),
        ]

    def _start_probe(self, seconds: float, rate: float = 80.0) -> None:
        """Start requests of health and readiness from another process, beside the load."""
        for path in ("/api/health", "/api/ready"):
            self._prober.start(
                port=self._gateway.port,
                path=path,
                method="GET",
                mode="open",
                rate=rate,
                seconds=seconds / 2,
                warm=2,
            )

    def _probe_p99(self) -> float:
        return max(float(self._prober.result()["p99_ms"]) for _ in range(2))

    # -- streams -------------------------------------------------------------------------------------------------------

    def _streams(self) -> list[Row]:
        rate = 60.0
        closed, open_ = self._closed_load(), self._open_load(rate)
        chunks = self._open_load(rate * (CHUNKS + 1))  # one more for each stream's head
        cpu: dict[str, list[float]] = {"closed": [], "closed plain": [], "open": [], "open plain": []}
        first: dict[str, list[float]] = {"p50": [], "p99": []}
        for round_ in range(self._rounds):
            seed = {"seed": round_}
            self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 0})
            cpu["closed plain"].append(self._plain_cpu(**closed))
            spent, result = self._run(self._gateway, self._loader, **(closed | STREAM))
            self._count_incomplete(result)
            cpu["closed"].append(spent)
            self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 5})
            cpu["open plain"].append(self._plain_cpu(**(chunks | seed)))
            spent, result = self._run(self._gateway, self._loader, **(open_ | STREAM | seed))
            self._count_incomplete(result)
            cpu["open"].append(spent)
            _, direct = self._run(self._sim, self._loader, **(open_ | DIRECT_STREAM | seed))
            for name, values in first.items():
                values.append(result[f"first_{name}_ms"] - direct[f"first_{name}_ms"])
        closed_cpu, closed_plain, open_cpu, open_plain = (statistics.median(it) for it in cpu.values())
        p50, p99 = (statistics.median(it) for it in first.values())
        closed_scale, open_scale = Scale(closed_plain), Scale(open_plain)
        return [
            Row(
                f"stream of {CHUNKS} chunks, zero-latency provider, {IN_FLIGHT} in flight: CPU in the worker",
                f"{closed_scale.ratio(closed_cpu)} ({closed_scale.division(closed_cpu)})",
                f"<= {times_plain(1.2)}",
            ),
            Row(
                f"the same with 5 ms between chunks ({rate:.0f} streams/s, random arrivals): CPU in the worker",
                f"{open_scale.ratio(open_cpu)} ({open_scale.division(open_cpu)})",
                f"<= {times_plain(1.2)}",
            ),
            Row(
                "the same: first token added",
                f"p50 {open_scale.ratio(p50)} ({open_scale.division(p50)}; p99 {p99:.2f} ms)",
                f"p50 <= {times_plain(1.5)}",
            ),
        ]

    def _count_incomplete(self, result: dict[str, Any]) -> None:
        self._errors += sum(n for tokens, n in result["tokens"].items() if tokens != str(CHUNKS))

    def _many_streams(self, count: int, scale: Scale, note: str = "") -> list[Row]:
        """All are open at once: they start within 1.5 s, and the provider's first token takes 2 s."""
        self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 50, "latency_ms": 2000})
        bursts: list[Burst] = []  # failures count also in disturbed rounds

        def measure(_: int) -> Burst:
            bursts.append(self._burst(count))
            return bursts[-1]

        rounds = undisturbed(1 if self._quick else 3, measure)
        self._sim.post("/_control", {"token_ms": 0, "latency_ms": 0})
        failed, peak = sum(it.failed for it in bursts), max(it.rss_mb for it in bursts)
        _, spent, gap, direct, first, first99, _, health = _medians(rounds.results)
        return [
            Row(
                f"{count:,} concurrent streams{note} of {CHUNKS} tokens at 50 ms: failed",
                f"{failed} (CPU {spent:.2f} ms each)",
                "= 0",
            ),
            Row(
                "the same: p99 of the gaps between tokens",
                f"{gap / direct:.2f} x the provider's own ({gap:.0f} ms to {direct:.0f} ms; {rounds})",
                "<= 2 x the provider's own",
            ),
            Row(
                "the same: first token p50 (p99) after the provider's own",
                f"{first:.0f} ms ({first99:.0f} ms)",
            ),
            Row("the same: worker's RSS", f"{peak:.0f} MB", "< 250 MB"),
            Row(
                "/api/health and /api/ready beside the streams: p99",
                f"{scale.ratio(health)} ({scale.division(health)})",
                f"< {times_plain(10)}",
            ),
        ]

    def _burst(self, count: int) -> Burst:
        job: dict[str, Any] = {"mode": "burst", "count": count, "ramp_s": 1.5}
        direct = self._loader.run(port=self._sim.port, **job, **DIRECT_STREAM)
        time.sleep(1)
        self._start_probe(4.0)
        before = self._gateway.cpu()
        self._loader.start(port=self._gateway.port, **job, **STREAM)
        peak = 0.0
        end = time.monotonic() + 4.0
        while time.monotonic() < end:
            peak = max(peak, self._gateway.rss_mb())
            time.sleep(0.1)
        result = self._loader.result()
        return Burst(
            failed=count - result["tokens"].get(str(CHUNKS), 0),
            cpu_ms=(self._gateway.cpu() - before) * 1000 / count,
            gap=result["gap_p99_ms"],
            direct_gap=direct["gap_p99_ms"],
            first=result["first_p50_ms"] - direct["first_p50_ms"],
            first99=result["first_p99_ms"] - direct["first_p99_ms"],
            rss_mb=peak,
            health=self._probe_p99(),
        )
