"""What the gateway costs: against direct calls to the simulator, interleaved in one run."""

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
# Milliseconds that plain took where the targets were set.
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


class Scale(Struct, frozen=True):
    """How fast this machine is under one kind of load: milliseconds that plain takes."""

    plain_ms: float

    def ratio(self, ms: float) -> str:
        """Milliseconds as a multiple of plain."""
        return f"{ms / self.plain_ms:.1f} x plain"

    def division(self, *ms: float) -> str:
        """Where the multiples come from: the milliseconds, and those of plain."""
        return f"{', '.join(f'{it:.2f}' for it in ms)} ms; plain {self.plain_ms:.3f} ms"

    def streams(self) -> int:
        """As many streams for this machine as a thousand are where the targets were set."""
        return round(1000 * REFERENCE_PLAIN_MS / self.plain_ms / 50) * 50


def times_plain(ms: float) -> str:
    """A limit in milliseconds, set where plain took 0.105 ms, as a multiple of plain; rounded down."""
    return f"{math.floor(ms / REFERENCE_PLAIN_MS * 10) / 10:.1f} x plain"


class Half(Struct, frozen=True):
    """One round at half of saturation; milliseconds."""

    plain: float
    cpu: float
    p50: float
    p99: float
    health: float


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


def _medians(rounds: Sequence[Struct]) -> tuple[float, ...]:
    """Field by field."""
    return tuple(statistics.median(it) for it in zip(*map(astuple, rounds), strict=True))


class Overhead:
    """The processes, and each measurement over them."""

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
        self._wrong = 0
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
        rows.append(Row("answers that were not 200 in all of the above", str(self._wrong), "= 0"))
        rss, threads = self._idle
        rows.append(
            Row(
                "idle worker without the embedded model",
                f"RSS {rss:.0f} MB, {threads} threads",
                "RSS <= 80 MB, <= 10 threads",
            )
        )
        return rows

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

    def _plain_now(self, **load: Any) -> float:
        """What plain takes under a load of the kind that it is set beside."""
        return self._measured(self._plain, self._loader, path="/", method="GET", **load)[0]

    def _in_flight(self) -> dict[str, Any]:
        return {"mode": "closed", "concurrency": IN_FLIGHT, "seconds": self._slice_s}

    def _a_second(self, rate: float) -> dict[str, Any]:
        return {"mode": "open", "rate": rate, "seconds": self._slice_s, "warm": 32}

    def _saturation(self) -> tuple[list[Row], float, Scale]:
        load = self._in_flight()
        ask = {"path": "/api/v1/generate", "body": json.dumps(ASK)}
        # As an application would ask again and again: every prompt new, with the cache in the way.
        fresh = [json.dumps({"prompt": f"{PROMPT} {index}"}) for index in range(20_000)]
        cpu: dict[str, list[float]] = {"gateway": [], "plain": [], "redis": [], "fresh": []}
        rates: dict[str, list[float]] = {"gateway": [], "direct": []}
        self._measured(self._gateway, self._loader, **(load | ask))  # warm
        for round_ in range(self._rounds):
            redis_before = self._redis.cpu()
            spent, found = self._measured(self._gateway, self._loader, **(load | ask))
            cpu["redis"].append((self._redis.cpu() - redis_before) * 1000 / found["count"])
            cpu["gateway"].append(spent)
            rates["gateway"].append(found["rate"])
            cpu["plain"].append(self._plain_now(**load))
            direct = {"path": f"{DIRECT}:generateContent", "body": DIRECT_BODY}
            _, found = self._measured(self._sim, self._loader, **(load | direct))
            rates["direct"].append(found["rate"])
            part = fresh[round_ * 3000 : (round_ + 1) * 3000]
            half = load | {"seconds": self._slice_s / 2, "path": "/api/v1/generate", "bodies": part}
            spent, _ = self._measured(self._gateway, self._loader, **half)
            cpu["fresh"].append(spent)
        ours, plain, redis, miss = (
            statistics.median(cpu[name]) for name in ("gateway", "plain", "redis", "fresh")
        )
        scale = Scale(plain)
        rate = statistics.median(rates["gateway"])
        rows = [
            Row(
                f"unary, quota checked in Redis, zero-latency provider, {IN_FLIGHT} in flight: CPU in the worker",
                f"{scale.ratio(ours)} ({scale.division(ours)}; Redis itself {redis:.3f} ms)",
                f"<= {times_plain(0.45)}",
            ),
            Row("the same with new prompts and the cache on", f"{miss:.3f} ms"),
            Row(
                "requests/s per core of one worker",
                f"{1000 / ours:.0f} by CPU; {rate:.0f} reached beside the simulator, Redis and the load generator; "
                f"plain {1000 / plain:.0f}; direct {statistics.median(rates['direct']):.0f}",
            ),
        ]
        return rows, rate, scale

    def _at_half(self, saturation: float) -> list[Row]:
        load = self._a_second(saturation / 2)
        ask = {"path": "/api/v1/generate", "body": json.dumps(ASK)}
        direct = {"path": f"{DIRECT}:generateContent", "body": DIRECT_BODY}

        def take(round_: int) -> Half:
            seed = {"seed": round_}
            plain = self._plain_now(**load, **seed)
            self._probe(self._slice_s)
            spent, ours = self._measured(self._gateway, self._loader, **(load | ask | seed))
            health = self._probed()
            _, theirs = self._measured(self._sim, self._loader, **(load | direct | seed))
            p50, p99 = (ours[name] - theirs[name] for name in ("p50_ms", "p99_ms"))
            return Half(plain, spent, p50, p99, health)

        with self._stage.apart(self._gateway, self._plain):
            rounds = undisturbed(self._rounds, take)
        plain, cpu, p50, p99, health = _medians(rounds.found)
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
        rate = 60.0
        together, apart = self._in_flight(), self._a_second(rate)
        chunks = self._a_second(rate * (CHUNKS + 1))  # and each stream's head
        cpu: dict[str, list[float]] = {"together": [], "its plain": [], "apart": [], "its own plain": []}
        first: dict[str, list[float]] = {"p50": [], "p99": []}
        for round_ in range(self._rounds):
            seed = {"seed": round_}
            self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 0})
            cpu["its plain"].append(self._plain_now(**together))
            spent, ours = self._measured(self._gateway, self._loader, **(together | STREAM))
            self._count_cut_off(ours)
            cpu["together"].append(spent)
            self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 5})
            cpu["its own plain"].append(self._plain_now(**(chunks | seed)))
            spent, ours = self._measured(self._gateway, self._loader, **(apart | STREAM | seed))
            self._count_cut_off(ours)
            cpu["apart"].append(spent)
            _, theirs = self._measured(self._sim, self._loader, **(apart | DIRECT_STREAM | seed))
            for name, values in first.items():
                values.append(ours[f"first_{name}_ms"] - theirs[f"first_{name}_ms"])
        quick, quick_plain, slow, slow_plain = (statistics.median(it) for it in cpu.values())
        p50, p99 = (statistics.median(it) for it in first.values())
        busy, alone = Scale(quick_plain), Scale(slow_plain)
        return [
            Row(
                f"stream of {CHUNKS} chunks, zero-latency provider, {IN_FLIGHT} in flight: CPU in the worker",
                f"{busy.ratio(quick)} ({busy.division(quick)})",
                f"<= {times_plain(1.2)}",
            ),
            Row(
                f"the same with 5 ms between chunks ({rate:.0f} streams/s, random arrivals): CPU in the worker",
                f"{alone.ratio(slow)} ({alone.division(slow)})",
                f"<= {times_plain(1.2)}",
            ),
            Row(
                "the same: first token added",
                f"p50 {alone.ratio(p50)} ({alone.division(p50)}; p99 {p99:.2f} ms)",
                f"p50 <= {times_plain(1.5)}",
            ),
        ]

    def _count_cut_off(self, found: dict[str, Any]) -> None:
        self._wrong += sum(n for tokens, n in found["tokens"].items() if tokens != str(CHUNKS))

    def _many_streams(self, count: int, scale: Scale, why: str = "") -> list[Row]:
        """All are open at once: they start over 1.5 s, and the provider thinks for 2 s before its first token."""
        self._sim.post("/_control", {"output_tokens": CHUNKS, "token_ms": 50, "latency_ms": 2000})
        every: list[Burst] = []  # failures count in disturbed rounds, too

        def take(_: int) -> Burst:
            every.append(self._burst(count))
            return every[-1]

        rounds = undisturbed(1 if self._quick else 3, take)
        self._sim.post("/_control", {"token_ms": 0, "latency_ms": 0})
        failed, peak = sum(it.failed for it in every), max(it.rss_mb for it in every)
        _, spent, gap, own, first, first99, _, health = _medians(rounds.found)
        return [
            Row(
                f"{count:,} concurrent streams{why} of {CHUNKS} tokens at 50 ms: failed",
                f"{failed} (CPU {spent:.2f} ms each)",
                "= 0",
            ),
            Row(
                "the same: p99 of the gaps between tokens",
                f"{gap / own:.2f} x the provider's own ({gap:.0f} ms to {own:.0f} ms; {rounds})",
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
