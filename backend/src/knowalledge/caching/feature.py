"""The caches, as a feature."""

from collections.abc import Callable, Mapping
from functools import partial
from uuid import uuid4

from msgspec import Struct

from knowalledge.caching import cdn, web
from knowalledge.caching.domain import Lifetimes
from knowalledge.caching.invalidation import Invalidator
from knowalledge.caching.layers import Layer, Layers
from knowalledge.caching.memory import MemoryResponseCache
from knowalledge.caching.openapi import OPERATIONS
from knowalledge.caching.ports import Purger
from knowalledge.caching.read_through import ReadThrough
from knowalledge.caching.redis import RedisResponseCache
from knowalledge.caching.settings import CacheSettings, CdnSettings
from knowalledge.caching.singleflight.memory import MemoryFlights
from knowalledge.caching.singleflight.redis import Pace, RedisFlights
from knowalledge.caching.stats import Statistics
from knowalledge.caching.telemetry import CacheMetrics
from knowalledge.core.clock import Clock
from knowalledge.core.feature import Feature, Task
from knowalledge.core.metrics import Metrics
from knowalledge.net.redis.connection import RedisConnection
from knowalledge.web.context import WebContext

# How soon a worker applies what was invalidated elsewhere, in seconds.
LISTEN_S = 0.25
# How often a worker sets the gauges of its memory, in seconds: whichever worker is asked answers for all.
NOTE_S = 5.0


class Caches(Struct, frozen=True):
    """What other capabilities read through."""

    reads: ReadThrough
    metrics: CacheMetrics
    tasks: tuple[Task, ...] = ()
    unreadable: Callable[[], int] = lambda: 0  # entries of the shared layer that could not be read


def make_caches(
    settings: CacheSettings, redis: RedisConnection | None, clock: Clock, metrics: Metrics
) -> Caches:
    """Memory in front of Redis; memory alone without it."""
    counts = CacheMetrics(metrics)
    memory = MemoryResponseCache(settings.memory_bytes, clock)
    lifetimes = Lifetimes(
        memory_s=settings.memory_ttl,
        life_s=settings.redis_ttl if redis else settings.memory_ttl,
        stale_s=settings.stale_ttl,
    )
    if redis is None:
        layers = Layers((Layer("memory", memory),), lifetimes, clock, counts)
        return Caches(ReadThrough(layers, MemoryFlights(clock), clock), counts)
    shared = RedisResponseCache(redis.commands, redis.breaker, settings.redis_bytes, redis.prefix)
    listen = partial(shared.listen, memory)
    layers = Layers((Layer("memory", memory), Layer("redis", shared)), lifetimes, clock, counts, listen)
    # Followers block in Redis until there is something to read: on connections of their own.
    flights = RedisFlights(
        redis.commands,
        redis.breaker,
        clock,
        lambda: uuid4().hex,
        Pace(block=min(0.4, redis.timeout_s / 2)),
        blocking=redis.pool,
        prefix=redis.prefix,
    )
    return Caches(
        ReadThrough(layers, flights, clock),
        counts,
        (Task("cache.listen", LISTEN_S, listen),),
        lambda: shared.unreadable,
    )


def build(
    caches: Caches,
    settings: CdnSettings,
    prices: Mapping[str, tuple[float, float]],
    popular: Callable[[], tuple[str, ...]],
    web_context: WebContext,
    audit: Callable[[str, dict[str, object]], None],
) -> Feature:
    """``prices``: USD per million tokens, input and output, by model. ``popular``: the paths of popular questions."""
    layers = caches.reads.layers
    statistics = Statistics(layers, caches.metrics, prices, popular, caches.unreadable)
    invalidate = Invalidator(layers, make_purger(settings), audit)
    return Feature(
        blueprints=(web.blueprint(web_context, statistics, invalidate),),
        operations=OPERATIONS,
        tasks=(*caches.tasks, Task("cache.gauges", NOTE_S, statistics.note_memory)),
        refresh_metrics=statistics.refresh_metrics,
        statistics={"cache": statistics},
    )


def make_purger(settings: CdnSettings) -> Purger | None:
    """The CDN that keeps public answers; None without one."""
    own = {"url": settings.urls[0]} if settings.urls else {}
    match settings.kind:
        case "varnish":
            return cdn.Varnish(settings.urls, settings.soft)
        case "cloudflare":
            return cdn.Cloudflare(settings.zone, settings.token, **own)
        case "fastly":
            return cdn.Fastly(settings.zone, settings.token, soft=settings.soft, **own)
        case _:
            return None
