"""Several gateways over one Redis and one simulated provider, and callers that replay a trace."""

import asyncio
import csv
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import lru_cache
from itertools import count, cycle
from pathlib import Path
from random import Random
from typing import Any

from msgspec import Struct

from bench.processes import Child, Stage
from bench.wire import Exchange, Pool, request

TRACE = Path(__file__).parent / "data" / "llm_trace.csv"
# The trace's prompts are long and its answers short. Divided by these, both matter, and no request takes a large share
# of the quota.
INPUT_DIVISOR, OUTPUT_DIVISOR = 60, 1
MODEL = "sim"
CONFIG = """
redis_url: redis://127.0.0.1:{redis}/0
default_model: sim
log.level: warning
models:
  sim:
    targets:
      - name: one
        provider: gemini
        model: sim
        base_url: http://127.0.0.1:{sim}
        api_key: none
        quota: {quota}
{extra}
"""
SAMPLES = (
    "The sky is blue because molecules of air scatter short waves of sunlight more strongly than long ones, so that "
    "blue light reaches the eye from everywhere while red passes straight on; in the evening the way through the air "
    "is longer, most of the blue has gone, and what remains is orange and red. ",
    '{"id": 4711, "name": "sensor-17", "values": [12.5, 13.25, 0.75], "ok": true, "tags": {"room": "b2"}}, ',
    "Une file d'attente équitable donne à chacun sa part, même lorsqu'un seul client envoie dix fois plus de demandes "
    "que les autres; celui qui revient après une pause n'est ni puni ni récompensé. ",
    "for index, (name, value) in enumerate(sorted(found.items())):\n    total += weights[name] * value ** 2\n",
)
_TOKEN = re.compile(r"\s*(?:[A-Za-z\u0080-\u024f]{1,6}|[0-9]{1,3}|\S)")


class Arrival(Struct, frozen=True):
    """One request of a caller."""

    at: float  # seconds from the start
    input: int
    output: int
    headers: dict[str, str] = {}
    tag: str = ""


class Outcome(Struct):
    """How one request ended for its caller. Times are seconds from the start."""

    arrival: Arrival
    sent: float
    ended: float
    status: int  # 0: no response
    body: dict[str, Any]
    retry_after: float = 0.0
    tries: int = 1

    @property
    def waited(self) -> float:
        """Seconds in the waiting room, as the gateway reports them."""
        return float(self.body.get("queue", {}).get("waited_ms", 0)) / 1000


@lru_cache(8)
def _sample_tokens(style: int) -> list[str]:
    return _TOKEN.findall(SAMPLES[style] * 8)


def prompt(tokens: int, seed: int) -> str:
    """A text of about ``tokens`` tokens: English, JSON, French or code."""
    rng = Random(seed)
    pieces = _sample_tokens(rng.choices(range(len(SAMPLES)), (6, 2, 1, 1))[0])
    start = rng.randrange(len(pieces) // 2)
    repeats, rest = divmod(tokens, len(pieces) // 2)
    half = pieces[start : start + len(pieces) // 2]
    return "".join(half * repeats + half[:rest]).strip()


def trace(tokens_per_minute: float, seconds: float, seed: int = 0) -> list[Arrival]:
    """The trace's arrivals, accelerated to this rate of tokens, repeated as long as necessary.

    ``seed`` chooses where in the trace to begin; 0: at its start.
    """
    with TRACE.open() as file:
        rows = [
            (int(it["arrival_ms"]) / 1000, int(it["input_tokens"]), int(it["output_tokens"]))
            for it in csv.DictReader(file)
        ]
    rows = [(at, max(8, input_ // INPUT_DIVISOR), max(1, out // OUTPUT_DIVISOR)) for at, input_, out in rows]
    span = rows[-1][0] + 1
    speed = tokens_per_minute / (sum(input_ + out for _, input_, out in rows) / span * 60)
    start = Random(seed).randrange(len(rows)) if seed else 0
    arrivals: list[Arrival] = []
    for index in count(start):
        repeat, row = divmod(index, len(rows))
        at, input_, out = rows[row]
        arrives_at = (repeat * span + at - rows[start][0]) / speed
        if arrives_at >= seconds:
            return arrivals
        arrivals.append(Arrival(arrives_at, input_, out))
    raise AssertionError


class Fleet:
    """Redis, the provider and the gateways, with the provider's statistics."""

    def __init__(
        self,
        stage: Stage,
        quota: str,
        limits: dict[str, Any],
        gateways: int = 3,
        extra: str = "",
        env: dict[str, str] | None = None,
    ) -> None:
        """``quota``: configured in the gateways. ``limits``: the provider's knobs. ``extra``: more YAML."""
        self.stage = stage
        self.sim = stage.simulator()
        self.redis = stage.redis()
        config = CONFIG.format(redis=self.redis.port, sim=self.sim.port, quota=quota, extra=extra)
        self.config = config
        self.gateways = [stage.gateway(config, env=env) for _ in range(gateways)]
        self.set_knobs(**limits)
        # One request each, so that every module is loaded and every connection open before the measurement.
        for gateway in self.gateways:
            gateway.post("/api/v1/generate", {"prompt": "hello [[out=1]]", "cache": "bypass"})
        self.sim.post("/_reset")

    def set_knobs(self, **patch: Any) -> None:
        response = self.sim.post("/_control", patch)
        if "error" in response:
            raise ValueError(response["error"])

    def stats(self, since: float, until: float) -> "ProviderStats":
        """The provider's statistics of [since, until), in seconds after its reset."""
        stats = self.sim.get(f"/_stats?since={since}&until={until}&timeline=1")
        model = stats["models"].get(MODEL, {"windows": {}, "timeline": []})
        seconds = [row for row in model["timeline"] if since <= row[0] < until]
        return ProviderStats(
            accepted=sum(row[1] for row in seconds),
            rejected=sum(row[2] for row in seconds),
            utilisation={name: it["utilisation"] for name, it in model["windows"].items()},
            peaks={name: it["peak_share"] for name, it in model["windows"].items()},
        )


class ProviderStats(Struct, frozen=True):
    """The provider's counts over an interval."""

    accepted: int
    rejected: int
    utilisation: dict[str, float]
    peaks: dict[str, float]

    @property
    def use(self) -> float:
        """The utilisation of the tightest window."""
        return max(self.utilisation.values(), default=0.0)

    @property
    def refused(self) -> float:
        """The share of calls that the provider rejected."""
        return self.rejected / max(1, self.rejected + self.accepted)

    def summary(self) -> str:
        shares = ", ".join(
            f"{name} {share:.1%} (peak {self.peaks[name]:.1%})" for name, share in self.utilisation.items()
        )
        return f"{self.rejected} of {self.rejected + self.accepted} calls refused ({self.refused:.2%}); use {shares}"


class Replay:
    """Sends each arrival to the next gateway at its time, independent of the others.

    Like a load balancer, it repeats a request whose connection broke without a response, once at each other gateway.
    """

    def __init__(
        self,
        ports: list[int],
        arrivals: list[Arrival],
        patience_s: float = 120.0,
        body: dict[str, Any] | None = None,
    ) -> None:
        """``patience_s``: how long to wait after the last arrival. ``body``: fields added to each request."""
        self._ports, self._arrivals, self._patience_s = ports, arrivals, patience_s
        self._body = {"cache": "bypass"} | (body or {})
        self.outcomes: list[Outcome] = []
        self.started = 0.0
        self._unreachable: set[int] = set()
        self._in_flight = 0
        self._actions: list[tuple[float, Callable[[], None]]] = []

    def schedule(self, at: float, action: Callable[[], None]) -> None:
        """Call ``action`` at ``at`` seconds after the start, in a thread of its own."""
        self._actions.append((at, action))

    def run(self) -> list[Outcome]:
        asyncio.run(self._run())
        return self.outcomes

    async def _run(self) -> None:
        pools = {port: Pool("127.0.0.1", port) for port in self._ports}
        self.started = time.perf_counter()
        timers = [threading.Timer(at, action) for at, action in self._actions]
        for timer in timers:
            timer.start()
        ports = cycle(self._ports)
        for index, arrival in enumerate(self._arrivals):
            raw = self._raw(arrival, index)
            pause = self.started + arrival.at - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            self._in_flight += 1
            self._send(pools, ports, raw, arrival, time.perf_counter(), 1)
        end = time.perf_counter() + self._patience_s
        while self._in_flight and time.perf_counter() < end:
            await asyncio.sleep(0.1)
        for timer in timers:
            timer.join()
        for pool in pools.values():
            pool.close()

    def _raw(self, arrival: Arrival, index: int) -> bytes:
        text = f"{prompt(arrival.input, index)} [[out={arrival.output}]]"
        body = json.dumps({"prompt": text} | self._body).encode()
        return request("/api/v1/generate", "gateway", body, arrival.headers)

    def _send(
        self,
        pools: dict[int, Pool],
        ports: Iterator[int],
        raw: bytes,
        arrival: Arrival,
        sent: float,
        tries: int,
    ) -> None:
        port = next(ports)
        if port in self._unreachable and len(self._unreachable) < len(self._ports):
            port = next(it for it in ports if it not in self._unreachable)

        def on_end(exchange: Exchange) -> None:
            if exchange.status <= 0:
                self._unreachable.add(port)
                if tries < len(self._ports):
                    self._send(pools, ports, raw, arrival, sent, tries + 1)
                    return
            else:
                self._unreachable.discard(port)
            self._in_flight -= 1
            self.outcomes.append(_outcome(arrival, exchange, sent - self.started, self.started, tries))

        pools[port].send(raw, Exchange(on_end))


def _outcome(arrival: Arrival, exchange: Exchange, sent: float, started: float, tries: int) -> Outcome:
    try:
        body = events(exchange.body) if b"text/event-stream" in exchange.head else json.loads(exchange.body)
    except ValueError:
        body = {}
    after = re.search(rb"\r\nretry-after: *([0-9]+)", exchange.head.lower())
    return Outcome(
        arrival,
        sent,
        exchange.ended - started,
        # An error within a stream is an event: its status counts.
        int(body["status"]) if "first_queued" in body and "status" in body else exchange.status,
        body,
        float(after[1]) if after else 0.0,
        tries,
    )


def events(stream: bytes) -> dict[str, Any]:
    """The final event of a stream, and its first ``queued`` event as ``first_queued``."""
    final: dict[str, Any] = {}
    first_queued: dict[str, Any] = {}
    for name, data in re.findall(rb"event: (\w+)\r?\ndata: ([^\r\n]*)", stream):
        if name == b"queued" and not first_queued:
            first_queued = json.loads(data)
        elif name in (b"done", b"error"):
            final = json.loads(data)
    return final | {"first_queued": first_queued}


def summary_of(outcomes: list[Outcome]) -> str:
    """The number of callers by outcome."""
    served = sum(it.status == 200 for it in outcomes)
    refused = sum(it.status == 429 for it in outcomes)
    others: dict[str, int] = {}
    for outcome in outcomes:
        if outcome.status not in (200, 429):
            name = f"{outcome.status} {outcome.body.get('code', '')}".strip()
            others[name] = others.get(name, 0) + 1
    rest = "".join(f", {n} x {name}" for name, n in sorted(others.items()))
    return f"{served} served, {refused} told to come back later{rest}"


def restart(stage: Stage, redis: Child) -> None:
    """Kill Redis and start it again, empty, on the same port."""
    redis.kill()
    redis.process = stage.redis(redis.port).process
