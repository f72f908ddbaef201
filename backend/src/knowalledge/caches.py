"""The wiring of the caches and of what is served from them: a part of ``app.py`` in a file of its own."""

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NamedTuple
from uuid import uuid4

from flask import Blueprint
from msgspec.structs import replace
from redis import Redis

from knowalledge.caching import cdn
from knowalledge.caching import web as cache_routes
from knowalledge.caching.domain import Lifetimes
from knowalledge.caching.eviction import Sieve
from knowalledge.caching.invalidation import Invalidator
from knowalledge.caching.layers import Layer, Layers
from knowalledge.caching.memory import MemoryResponseCache
from knowalledge.caching.ports import Flights, Purger
from knowalledge.caching.read_through import ReadThrough
from knowalledge.caching.redis import RedisResponseCache
from knowalledge.caching.singleflight.memory import MemoryFlights
from knowalledge.caching.singleflight.redis import Pace, RedisFlights
from knowalledge.caching.telemetry import CacheMetrics
from knowalledge.caching.web import CacheStats, LayerStats, Saved
from knowalledge.config.settings import Settings
from knowalledge.core.clock import Clock
from knowalledge.net.background import Task
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.scripts import CommandExecutor
from knowalledge.observability.logging import audit
from knowalledge.quota.ports import QuotaStore
from knowalledge.topics import prompt_files as prompts
from knowalledge.topics import web as topic_routes
from knowalledge.topics.fast_path import FastPath, ParsedUrl, Policy
from knowalledge.topics.popularity.memory import MemoryPopularity
from knowalledge.topics.popularity.redis import RedisPopularity
from knowalledge.topics.ports import Popularity
from knowalledge.topics.service import Completes, Topics
from knowalledge.topics.warming import HALF_LIFE_S, MAX_TRACKED, Warming
from knowalledge.web.context import WebContext

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication

# How soon a worker hears what was taken back elsewhere, in seconds.
LISTEN_S = 0.25
# How often a worker notes what it holds, in seconds.
NOTE_S = 5.0
# Popular answers are made anew only while every window of a target has this share to spare.
SPARE = 0.5
# Room for addresses that were understood before.
MEMO_BYTES = 4 * 1024**2


class Caches(NamedTuple):
    """The layers that answer before a model does, and how replicas share one run."""

    layers: Layers
    flights: Flights
    popularity: Popularity
    tasks: tuple[Task, ...]
    unreadable: Callable[[], int]


def build(
    settings: Settings,
    redis: "Redis | None",
    pipe: CommandExecutor | None,
    clock: Clock,
    telemetry: CacheMetrics,
) -> Caches:
    """``pipe`` is for short commands of many requests; ``redis`` for those that block."""
    memory = MemoryResponseCache(settings.cache.memory_bytes, clock)
    lifetimes = Lifetimes(
        memory_s=settings.cache.memory_ttl,
        life_s=settings.cache.redis_ttl if redis else settings.cache.memory_ttl,
        stale_s=settings.cache.stale_ttl,
    )
    if redis is None or pipe is None:
        layers = Layers((Layer("memory", memory),), lifetimes, clock, telemetry)
        popularity = MemoryPopularity(clock, HALF_LIFE_S, MAX_TRACKED)
        return Caches(layers, MemoryFlights(clock), popularity, (), lambda: 0)
    outage = RedisBreaker(clock)
    shared = RedisResponseCache(pipe, outage, settings.cache.redis_bytes)
    listen = partial(shared.listen, memory)
    pace = Pace(block=min(0.4, settings.redis.timeout / 2))
    return Caches(
        Layers((Layer("memory", memory), Layer("redis", shared)), lifetimes, clock, telemetry, listen),
        # Followers block in Redis until there is something to read: on connections of their own.
        RedisFlights(pipe, outage, clock, lambda: uuid4().hex, pace, blocking=redis),
        RedisPopularity(pipe, outage, HALF_LIFE_S, MAX_TRACKED),
        ((LISTEN_S, listen),),
        lambda: shared.unreadable,
    )


class Knowledge(NamedTuple):
    """What is served from the caches: routes, and what runs beside them."""

    routes: tuple[Blueprint, ...]
    short: "Callable[[WSGIApplication], WSGIApplication]"  # the way before the framework
    tasks: tuple[Task, ...]
    gauges: Callable[[], None]


def knowledge(
    settings: Settings,
    web: WebContext,
    caches: Caches,
    models: Completes,
    quota: QuotaStore,
    clock: Clock,
    telemetry: CacheMetrics,
) -> Knowledge:
    layers = caches.layers
    model = settings.default
    service = Topics(
        models,
        ReadThrough(layers, caches.flights, clock),
        clock,
        prompts.load(),
        model.name,
        telemetry,
        lambda asked: warming.record_query(asked),
    )
    spare = partial(has_spare, quota, tuple(target.name for target in model.targets))
    warming = Warming(service, caches.popularity, clock, layers.lifetimes.life_s, spare, lambda: uuid4().hex)
    policy = Policy(
        browser_s=int(settings.cache.browser_ttl),
        cdn_s=int(settings.cache.cdn_ttl),
        stale_s=int(settings.cache.stale_ttl),
        public=settings.auth.mode == "none",
        shared=layers.shared is not None,
    )
    memo: Sieve[str, ParsedUrl] = Sieve(MEMO_BYTES)
    routes = topic_routes.blueprint(web, service, policy, memo, settings.request.timeout)
    stats = partial(cache_stats, settings, caches, warming, telemetry)
    operating = cache_routes.blueprint(web, stats, Invalidator(layers, purger(settings), audit))
    gauges = partial(_shared_gauges, layers, telemetry)
    # Whichever worker is asked tells of all: each notes in time what it holds.
    noting: Task = (NOTE_S, partial(_gauges, layers, telemetry))
    warm: tuple[Task, ...] = ((warming.round_s, warming.round),) if settings.cache.keep_warm else ()
    return Knowledge(
        (routes, operating),
        lambda inner: FastPath(inner, web, service, policy, memo),
        (*caches.tasks, noting, *warm),
        gauges,
    )


def has_spare(quota: QuotaStore, targets: tuple[str, ...]) -> bool:
    """Whether a target has quota that nobody else will miss."""
    return any(
        all(it.used <= SPARE * it.window.limit for it in quota.window_status(target)) for target in targets
    )


def purger(settings: Settings) -> Purger | None:
    """What keeps public answers outside."""
    kind, urls = settings.cdn.kind, settings.cdn.urls
    if kind == "varnish":
        return cdn.Varnish(urls, settings.cdn.soft)
    own = {"url": urls[0]} if urls else {}
    if kind == "cloudflare":
        return cdn.Cloudflare(settings.cdn.zone, settings.cdn.token, **own)
    return (
        cdn.Fastly(settings.cdn.zone, settings.cdn.token, soft=settings.cdn.soft, **own)
        if kind == "fastly"
        else None
    )


def _gauges(layers: Layers, telemetry: CacheMetrics) -> None:
    telemetry.size("memory", layers.memory.size())


def _shared_gauges(layers: Layers, telemetry: CacheMetrics) -> None:
    _gauges(layers, telemetry)
    if layers.shared is not None:
        size = layers.shared.size()
        if layers.shared.up:
            telemetry.shared_size(size)


def cache_stats(settings: Settings, caches: Caches, warming: Warming, telemetry: CacheMetrics) -> CacheStats:
    layers = caches.layers
    _gauges(layers, telemetry)
    looks = telemetry.lookups()
    spared = telemetry.saved_tokens()

    def told(layer: str) -> LayerStats:
        hits, misses, stale, shared = (
            int(looks.get((layer, result), 0)) for result in ("hit", "miss", "stale", "shared")
        )
        own = {labels: value for labels, value in spared.items() if labels[0] == layer}
        return LayerStats(hits, misses, stale, shared, saved=_saved(settings, own))

    size = telemetry.total_size("memory")
    memory = replace(told("memory"), entries=size.entries, bytes=size.bytes, evictions=size.evictions)
    flight = told("flight")
    found = {"browser": replace(told("browser"), saved=None), "memory": memory, "flight": flight}
    hits = memory.hits
    if layers.shared is not None:
        redis, held = told("redis"), layers.shared.size()
        found["redis"] = replace(
            redis,
            entries=held.entries,
            bytes=held.bytes,
            evictions=held.evictions,
            unreadable=caches.unreadable(),
            up=layers.shared.up,
        )
        hits += redis.hits
    asked = memory.hits + memory.misses + memory.stale
    return CacheStats(
        hits=hits,
        misses=asked - hits,
        hit_rate=round(hits / asked, 4) if asked else 0.0,
        shared=flight.shared,
        stale=flight.stale,
        layers=found,
        saved=_saved(settings, spared),
        popular=tuple(question.path for question in warming.popular[:20]),
    )


def _saved(settings: Settings, spared: dict[tuple[str, ...], float]) -> Saved:
    """The sum of what was not spent, by layer, model and kind; its price is None if no model has one."""
    tokens = {
        kind: int(sum(it for (*_, of), it in spared.items() if of == kind)) for kind in ("input", "output")
    }
    prices = {model.name: model.price for model in settings.models if model.price}
    usd = sum(
        value * prices[model][kind == "output"] / 1e6
        for (_, model, kind), value in spared.items()
        if model in prices
    )
    return Saved(tokens["input"], tokens["output"], round(usd, 6) if prices else None)
