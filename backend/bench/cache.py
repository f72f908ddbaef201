"""The cache layers: hit rate, CPU of a hit, one call per key, the CDN, and a provider that is down."""

import itertools
import os
import re
import shutil
import subprocess
import time
from http.client import HTTPConnection
from pathlib import Path
from statistics import median
from typing import Any

import msgspec
import psutil
from redis import Redis

from bench.eviction import clairvoyant, ranks
from bench.ports import free_port
from bench.processes import Child, Loader, Stage
from bench.report import Row
from knowalledge.caching.domain import CacheEntry, Lifetimes
from knowalledge.caching.layers import Layer, Layers
from knowalledge.caching.memory import OVERHEAD, MemoryResponseCache
from knowalledge.caching.read_through import ReadThrough
from knowalledge.caching.redis import RedisResponseCache
from knowalledge.caching.singleflight.memory import MemoryFlights
from knowalledge.core.clock import SystemClock
from knowalledge.core.context import RequestContext
from knowalledge.gateway.domain.answer import Answer, Completion, Finish, Usage
from knowalledge.gateway.domain.prompt import Text
from knowalledge.gateway.domain.request import Request
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.topics import prompt_files as prompts
from knowalledge.topics.domain import parse_query
from knowalledge.topics.service import Topics

TITLE = "Caches"
WHY = """\
The hit rate is that of three replicas' real cache layers over one Redis, with topics drawn by Zipf's law.
Everything else runs over real processes.
CPU is user and system time of the worker.
*constant* is `/api/health` of the same application under the same load, interleaved.
`python -m bench.eviction` compares the eviction algorithms.
The CDN row misses its target on two cores: a twentieth of a worker's hit is less CPU than a send and a receive take.
The row below it compares the CDN with a worker that has to ask a model."""
CONFIG = """
redis_url: redis://127.0.0.1:{redis}/0
cache: {{keep_warm: false, {cache}}}
models: {{m: {{targets: [{{name: t, provider: gemini, api_key: k, base_url: "http://127.0.0.1:{sim}"}}]}}}}
"""
TOPICS = 10_000
PATH = "/api/v1/topics/light/related?count=8"
VCL = Path(__file__).parents[2] / "deploy" / "varnish" / "default.vcl"


def run(quick: bool) -> list[Row]:
    with Stage() as stage:
        rows = hit_rate(stage, 20_000 if quick else 120_000)
        redis, sim = stage.redis(), stage.simulator("--latency-ms", "800")
        config = CONFIG.format(redis=redis.port, sim=sim.port, cache="browser_ttl: 5m")
        replicas = [stage.gateway(config) for _ in range(3)]
        rows += one_call(stage, replicas, sim)
        sim.post("/_control", {"latency_ms": 0})
        rows += cost(stage, replicas[0], 1.0 if quick else 2.0, 3 if quick else 7)
        rows += cdn(stage, replicas[0], 1 if quick else 3)
    with Stage() as stage:
        rows += provider_down(stage, 2.0 if quick else 10.0)
    return rows


# -- hit rate ----------------------------------------------------------------------------------------------------------


class Model:
    """A gateway that answers at once and counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def complete(self, context: RequestContext, request: Request) -> Answer:  # noqa: ARG002 - the port's
        self.calls += 1
        text = msgspec.json.encode({"topics": [f"topic {index} " * 8 for index in range(8)]}).decode()
        usage = Usage(60, 90)
        return Answer("", request.model, "t", Completion((Text(text),), Finish.STOP, usage), usage)


class NoTelemetry:
    """Implements ``CacheTelemetry``."""

    def cached(self, layer: str, result: str, entry: CacheEntry | None = None) -> None:
        """Records nothing."""


def hit_rate(stage: Stage, length: int) -> list[Row]:
    """Zipf(1.0) over 10,000 topics, three replicas in turn, each with memory for 1% of them."""
    clock, model = SystemClock(), Model()
    files = prompts.load()
    redis = Redis(port=stage.redis().port)
    entry = 1000 + OVERHEAD  # bytes of such an answer in memory
    fleet = []
    for _ in range(3):
        shared = RedisResponseCache(redis, RedisBreaker(clock))
        memory = MemoryResponseCache(TOPICS // 100 * entry, clock)
        pair = (Layer("memory", memory), Layer("redis", shared))
        layers = Layers(pair, Lifetimes(600, 3600, 3600), clock, NoTelemetry())
        topics = Topics(
            model, ReadThrough(layers, MemoryFlights(clock), clock), clock, files, "m", NoTelemetry()
        )
        fleet.append((topics, memory))
    context = RequestContext("bench")
    sequence = list(itertools.islice(ranks(3, TOPICS), length))
    memory_hits = 0
    for index, rank in enumerate(sequence):
        topics, _ = fleet[index % 3]
        memory_hits += (
            topics.get(parse_query("related", f"topic {rank}", {}), context).cache.layer == "memory"
        )
    size = fleet[0][1].size()
    redis.close()
    hits = 1 - model.calls / length
    bound = clairvoyant([(rank, 1) for rank in sequence], 3 * TOPICS // 100)
    unbounded = 1 - len(set(sequence)) / length
    case = f"Zipf(1.0), {length:,} requests for {TOPICS:,} topics, 3 replicas with memory for {size.entries} each"
    return [
        Row(
            f"{case}: answered by memory or Redis",
            f"{hits:.1%} (memory alone {memory_hits / length:.1%})",
            "> 87%",
        ),
        Row(
            "... of what a clairvoyant cache of the three memories' size gets",
            f"{hits / bound:.0%} (of {bound:.1%})",
            ">= 95%",
        ),
        Row("... of what an endless cache gets", f"{hits / unbounded:.1%} of {unbounded:.1%}"),
    ]


# -- one call for many clients -----------------------------------------------------------------------------------------


def one_call(stage: Stage, replicas: list[Child], sim: Child) -> list[Row]:
    loaders = [stage.loader() for _ in replicas]
    counts = (334, 333, 333)
    for replica, loader, count in zip(replicas, loaders, counts, strict=True):
        loader.start(port=replica.port, path="/api/v1/topics/cold", method="GET", mode="burst", count=count)
    results = [loader.result() for loader in loaders]
    answered = sum(it["statuses"].get("200", 0) for it in results)
    calls = int(sim.get("/_stats")["accepted"])
    return [
        Row(
            "1,000 clients ask the same cold topic at once, 3 replicas",
            f"provider calls {calls}, answers {answered} (the last after "
            f"{max(it['max_ms'] for it in results) / 1000:.1f} s; the provider takes 0.8 s)",
            "provider calls = 1, answers = 1000",
        )
    ]


# -- CPU of a hit ------------------------------------------------------------------------------------------------------


def cost(stage: Stage, replica: Child, seconds: float, rounds: int) -> list[Row]:
    loader = stage.loader()
    etag = _get(replica.port, PATH)[1]["etag"]
    cases: dict[str, dict[str, Any]] = {
        "constant": {"path": "/api/health"},
        "hit": {"path": PATH},
        "304": {"path": PATH, "headers": {"If-None-Match": etag}},
    }
    spent: dict[str, list[float]] = {name: [] for name in cases}
    rates: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, job in cases.items():
            before = replica.cpu()
            result = loader.run(
                port=replica.port, method="GET", mode="closed", concurrency=16, seconds=seconds, **job
            )
            expected = result["statuses"].get("304" if name == "304" else "200", 0)
            if expected != result["count"]:
                raise RuntimeError(f"{name}: {result['statuses']}")
            spent[name].append((replica.cpu() - before) / result["count"] * 1e6)
            rates[name].append(result["count"] / result["seconds"])
    rows = [
        Row(
            "a constant from the same application",
            f"{median(spent['constant']):.0f} us, {median(rates['constant']):,.0f} requests/s",
        )
    ]
    for name, title, limit in (("hit", "memory hit (1 KB)", 1.5), ("304", "304 from memory", 1.2)):
        # Ratios of measurements next to each other in time: the machine is shared.
        ratio = median(a / b for a, b in zip(spent[name], spent["constant"], strict=True))
        rows.append(
            Row(
                f"{title} against it, CPU",
                f"{ratio:.2f} x constant ({median(spent[name]):.0f} us)",
                f"<= {limit} x constant",
            )
        )
    return rows


def _get(port: int, path: str) -> tuple[int, dict[str, str], bytes]:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        return (
            response.status,
            {name.lower(): value for name, value in response.getheaders()},
            response.read(),
        )
    finally:
        connection.close()


# -- the CDN -----------------------------------------------------------------------------------------------------------


def cdn(stage: Stage, replica: Child, rounds: int) -> list[Row]:
    """The shipped Varnish configuration in front of the replica, and the replica itself, under wrk, interleaved."""
    case = "through the CDN layer (Varnish), hot, against the worker's own"
    varnishd = shutil.which("varnishd", path=os.environ.get("PATH", "") + ":/usr/sbin")
    wrk = shutil.which("wrk")
    if varnishd is None or wrk is None:
        return [Row(case, "not measured: varnish or wrk is not installed")]
    port = free_port()
    text = re.sub(r'"backend-\d"; \.port = "8080"', f'"127.0.0.1"; .port = "{replica.port}"', VCL.read_text())
    stage.folder.chmod(0o755)
    (stage.folder / "bench.vcl").write_text(text)
    process = stage.start(
        varnishd, "-F", "-n", str(stage.folder / "varnish"), "-f", str(stage.folder / "bench.vcl"),
        "-a", f"127.0.0.1:{port}", "-s", "malloc,32m", *(["-j", "none"] if os.getuid() == 0 else []),
    )  # fmt: skip
    stage.wait_listening(port)
    while _get(port, PATH)[1].get("x-cache") != "HIT":
        time.sleep(0.05)
    varnish = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    ratios, rates, each, cold = [], [], [], []
    loader = stage.loader()
    for round_ in range(rounds):
        own, own_us = _wrk(wrk, replica.port, [replica.worker])
        cdn, cdn_us = _wrk(wrk, port, varnish)
        cold.append(_miss_cpu_us(loader, replica, round_) / cdn_us)
        ratios.append(cdn / own)
        rates.append(cdn)
        each.append((own_us / cdn_us, own_us, cdn_us))
    by_core, own_us, cdn_us = sorted(each)[len(each) // 2]
    measured = (
        f"{by_core:.1f} x the requests/s of a core ({1e6 / cdn_us:,.0f} to {1e6 / own_us:,.0f}: {cdn_us:.0f} us of CPU "
        f"a request to {own_us:.0f} us; {median(ratios):.1f} x as reached with the load generator on the same cores, "
        f"{median(rates):,.0f}/s)"
    )
    return [
        Row(case, measured, ">= 20 x the requests/s of a core"),
        Row(
            "the same against what a worker does where no cache knows the answer (a provider that takes no time)",
            f"{median(cold):.1f} x the requests/s of a core",
        ),
    ]


def _miss_cpu_us(loader: Loader, replica: Child, round_: int) -> float:
    """Microseconds of the worker's CPU for a cache miss."""
    before = replica.cpu()
    result = loader.run(
        port=replica.port,
        paths=[f"/api/v1/topics/cold-{round_}-{index}/related?count=3" for index in range(5000)],
        method="GET",
        mode="closed",
        concurrency=16,
        seconds=2.0,
    )
    if result["statuses"] != {"200": result["count"]}:
        raise RuntimeError(f"cold: {result['statuses']}")
    return (replica.cpu() - before) * 1e6 / float(result["count"])


def _wrk(wrk: str, port: int, servers: list[psutil.Process]) -> tuple[float, float]:
    """Requests/s, and microseconds of the servers' CPU per request."""
    before = sum(sum(it.cpu_times()[:2]) for it in servers)
    command = [wrk, "-t1", "-c32", "-d3s", f"http://127.0.0.1:{port}{PATH}"]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    spent = sum(sum(it.cpu_times()[:2]) for it in servers) - before
    rate, count = re.search(r"Requests/sec:\s+([\d.]+)", output), re.search(r"(\d+) requests in", output)
    if rate is None or count is None or "Non-2xx" in output:
        raise RuntimeError(output)
    return float(rate[1]), spent * 1e6 / int(count[1])


# -- a provider that is down -------------------------------------------------------------------------------------------


def provider_down(stage: Stage, seconds: float) -> list[Row]:
    """Answers that expire after a second, and a provider that fails every call."""
    redis, sim = stage.redis(), stage.simulator()
    cache = "redis_ttl: 1s, memory_ttl: 1s, stale_ttl: 10m"
    replicas = [stage.gateway(CONFIG.format(redis=redis.port, sim=sim.port, cache=cache)) for _ in range(3)]
    paths = [f"/api/v1/topics/topic-{index}/related?count=3" for index in range(100)]
    for path in paths:
        _get(replicas[0].port, path)
    sim.post("/_control", {"faults": {"503": 1.0}})
    time.sleep(1.2)
    requests = stale = 0
    slowest = 0.0
    end = time.monotonic() + seconds
    for index in itertools.count():
        if time.monotonic() > end and index >= len(paths):
            break
        started = time.monotonic()
        status, headers, body = _get(replicas[index % 3].port, paths[index % len(paths)])
        slowest = max(slowest, time.monotonic() - started)
        requests += 1
        stale += status == 200 and b'"degraded":true' in body and "detail=stale" in headers["cache-status"]
    return [
        Row(
            f"provider down, {len(paths)} warm topics past their life, 3 replicas",
            f"not answered {requests - stale} (of {requests:,}; the others are marked stale; the slowest after "
            f"{slowest:.2f} s; answers may be stale for 10 minutes)",
            "not answered = 0",
        )
    ]
