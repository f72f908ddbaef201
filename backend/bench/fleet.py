"""Several gateways behind one Redis and one strict provider, and callers that replay a trace against them."""

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
# The trace's prompts are long and its answers short; divided like this both matter, and no request is a large part
# of the quota.
INPUT_PART, OUTPUT_PART = 60, 1
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
_PIECE = re.compile(r"\s*(?:[A-Za-z\u0080-\u024f]{1,6}|[0-9]{1,3}|\S)")


class Arrival(Struct, frozen=True):
    """One request of a caller: when, and what."""

    at: float  # seconds from the start
    input: int
    output: int
    headers: dict[str, str] = {}
    tag: str = ""


class Outcome(Struct):
    """How one request ended for its caller. Times in seconds from the start."""

    arrival: Arrival
    sent: float
    ended: float
    status: int  # 0: no answer at all
    body: dict[str, Any]
    retry_after: float = 0.0
    tries: int = 1

    @property
    def waited(self) -> float:
        """Seconds in the waiting room, by the gateway's own word."""
        return float(self.body.get("queue", {}).get("waited_ms", 0)) / 1000


@lru_cache(8)
def _pieces(style: int) -> list[str]:
    return _PIECE.findall(SAMPLES[style] * 8)


def prompt(tokens: int, seed: int) -> str:
    """A text of about so many tokens: prose, JSON, French or code."""
    dice = Random(seed)
    pieces = _pieces(dice.choices(range(len(SAMPLES)), (6, 2, 1, 1))[0])
    start = dice.randrange(len(pieces) // 2)
    whole, rest = divmod(tokens, len(pieces) // 2)
    half = pieces[start : start + len(pieces) // 2]
    return "".join(half * whole + half[:rest]).strip()


def trace(tokens_a_minute: float, seconds: float, seed: int = 0) -> list[Arrival]:
    """The trace's arrivals, sped up until they ask for so many tokens a minute; from the start again at its end."""
    with TRACE.open() as file:
        rows = [
            (int(it["arrival_ms"]) / 1000, int(it["input_tokens"]), int(it["output_tokens"]))
            for it in csv.DictReader(file)
        ]
    rows = [(at, max(8, given // INPUT_PART), max(1, out // OUTPUT_PART)) for at, given, out in rows]
    span = rows[-1][0] + 1
    speed = tokens_a_minute / (sum(given + out for _, given, out in rows) / span * 60)
    start = Random(seed).randrange(len(rows)) if seed else 0
    found: list[Arrival] = []
    for index in count(start):
        turn, place = divmod(index, len(rows))
        at, given, out = rows[place]
        moment = (turn * span + at - rows[start][0]) / speed
        if moment >= seconds:
            return found
        found.append(Arrival(moment, given, out))
    raise AssertionError


class Fleet:
    """Redis, the provider and the gateways; and what the provider has seen."""

    def __init__(
        self,
        stage: Stage,
        quota: str,
        limits: dict[str, Any],
        gateways: int = 3,
        extra: str = "",
        env: dict[str, str] | None = None,
    ) -> None:
        """``quota`` is what the gateways are told, ``limits`` are the provider's knobs."""
        self.stage = stage
        self.sim = stage.simulator()
        self.redis = stage.redis()
        config = CONFIG.format(redis=self.redis.port, sim=self.sim.port, quota=quota, extra=extra)
        self.config = config
        self.gateways = [stage.gateway(config, env=env) for _ in range(gateways)]
        self.knobs(**limits)
        # One answer each, so that every part has been loaded and connected before the clock starts.
        for gateway in self.gateways:
            gateway.post("/api/v1/generate", {"prompt": "hello [[out=1]]", "cache": "bypass"})
        self.sim.post("/_reset")

    def knobs(self, **patch: Any) -> None:
        found = self.sim.post("/_control", patch)
        if "error" in found:
            raise ValueError(found["error"])

    def stats(self, since: float, until: float) -> "Judged":
        """What the provider saw in [since, until) seconds after its reset."""
        found = self.sim.get(f"/_stats?since={since}&until={until}&timeline=1")
        model = found["models"].get(MODEL, {"windows": {}, "timeline": []})
        seconds = [row for row in model["timeline"] if since <= row[0] < until]
        return Judged(
            accepted=sum(row[1] for row in seconds),
            rejected=sum(row[2] for row in seconds),
            utilisation={name: it["utilisation"] for name, it in model["windows"].items()},
            peaks={name: it["peak_share"] for name, it in model["windows"].items()},
        )


class Judged(Struct, frozen=True):
    """The provider's view of a stretch of time."""

    accepted: int
    rejected: int
    utilisation: dict[str, float]
    peaks: dict[str, float]

    @property
    def best(self) -> float:
        """The utilisation of the window that binds."""
        return max(self.utilisation.values(), default=0.0)

    @property
    def refused(self) -> float:
        """Share of the calls that the provider refused."""
        return self.rejected / max(1, self.rejected + self.accepted)

    def told(self) -> str:
        shares = ", ".join(
            f"{name} {share:.1%} (peak {self.peaks[name]:.1%})" for name, share in self.utilisation.items()
        )
        return f"{self.rejected} of {self.rejected + self.accepted} calls refused ({self.refused:.2%}); use {shares}"


class Replay:
    """Callers: each arrival goes to the next gateway at its moment, whatever became of the others.

    Like a load balancer, it takes a request whose connection broke before any answer to another gateway, once each.
    """

    def __init__(
        self,
        ports: list[int],
        arrivals: list[Arrival],
        patience_s: float = 120.0,
        body: dict[str, Any] | None = None,
    ) -> None:
        """``body`` is added to each request's."""
        self._ports, self._arrivals, self._patience_s = ports, arrivals, patience_s
        self._body = {"cache": "bypass"} | (body or {})
        self.outcomes: list[Outcome] = []
        self.began = 0.0
        self._gone: set[int] = set()
        self._flying = 0
        self._ended = asyncio.Event()
        self._deeds: list[tuple[float, Callable[[], None]]] = []

    def do(self, at: float, deed: Callable[[], None]) -> None:
        """Something to be done to the fleet so many seconds after the start, in a thread of its own."""
        self._deeds.append((at, deed))

    def run(self) -> list[Outcome]:
        asyncio.run(self._run())
        return self.outcomes

    async def _run(self) -> None:
        pools = {port: Pool("127.0.0.1", port) for port in self._ports}
        self.began = time.perf_counter()
        timers = [threading.Timer(at, deed) for at, deed in self._deeds]
        for timer in timers:
            timer.start()
        turns = cycle(self._ports)
        for index, arrival in enumerate(self._arrivals):
            raw = self._raw(arrival, index)
            pause = self.began + arrival.at - time.perf_counter()
            if pause > 0:
                await asyncio.sleep(pause)
            self._flying += 1
            self._send(pools, turns, raw, arrival, time.perf_counter(), 1)
        end = time.perf_counter() + self._patience_s
        while self._flying and time.perf_counter() < end:
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
        turns: Iterator[int],
        raw: bytes,
        arrival: Arrival,
        sent: float,
        tries: int,
    ) -> None:
        port = next(turns)
        if port in self._gone and len(self._gone) < len(self._ports):
            port = next(it for it in turns if it not in self._gone)

        def done(exchange: Exchange) -> None:
            if exchange.status <= 0:
                self._gone.add(port)
                if tries < len(self._ports):
                    self._send(pools, turns, raw, arrival, sent, tries + 1)
                    return
            else:
                self._gone.discard(port)
            self._flying -= 1
            self.outcomes.append(_outcome(arrival, exchange, sent - self.began, self.began, tries))

        pools[port].send(raw, Exchange(done))


def _outcome(arrival: Arrival, exchange: Exchange, sent: float, began: float, tries: int) -> Outcome:
    try:
        body = events(exchange.body) if b"text/event-stream" in exchange.head else json.loads(exchange.body)
    except ValueError:
        body = {}
    after = re.search(rb"\r\nretry-after: *([0-9]+)", exchange.head.lower())
    return Outcome(
        arrival,
        sent,
        exchange.ended - began,
        # An error after the first byte of a stream is an event; it counts as what it says.
        int(body["status"]) if "told" in body and "status" in body else exchange.status,
        body,
        float(after[1]) if after else 0.0,
        tries,
    )


def events(stream: bytes) -> dict[str, Any]:
    """A stream's last word, and under ``told`` the first place and time that it was told."""
    found: dict[str, Any] = {}
    told: dict[str, Any] = {}
    for name, data in re.findall(rb"event: (\w+)\r?\ndata: ([^\r\n]*)", stream):
        if name == b"queued" and not told:
            told = json.loads(data)
        elif name in (b"done", b"error"):
            found = json.loads(data)
    return found | {"told": told}


def counted(outcomes: list[Outcome]) -> str:
    """How the callers fared."""
    served = sum(it.status == 200 for it in outcomes)
    refused = sum(it.status == 429 for it in outcomes)
    others: dict[str, int] = {}
    for it in outcomes:
        if it.status not in (200, 429):
            name = f"{it.status} {it.body.get('code', '')}".strip()
            others[name] = others.get(name, 0) + 1
    rest = "".join(f", {n} x {name}" for name, n in sorted(others.items()))
    return f"{served} served, {refused} told to come back later{rest}"


def restart(stage: Stage, redis: Child) -> None:
    """Redis dies and comes back empty at the same address."""
    redis.kill()
    redis.process = stage.redis(redis.port).process
