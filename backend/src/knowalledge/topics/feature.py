"""The knowledge API, as a feature."""

from collections.abc import Callable
from functools import partial
from uuid import uuid4

from msgspec.structs import replace

from knowalledge.caching.eviction import Sieve
from knowalledge.caching.feature import Caches
from knowalledge.caching.settings import CacheSettings
from knowalledge.core.access import Access
from knowalledge.core.clock import Clock
from knowalledge.core.feature import Feature, Task
from knowalledge.core.openapi import Operation
from knowalledge.net.redis.connection import RedisConnection
from knowalledge.providers.settings import ModelSettings
from knowalledge.providers.targets import is_demonstration
from knowalledge.quota.ports import QuotaStore
from knowalledge.topics import prompt_files, web
from knowalledge.topics.fast_path import FastPath, ParsedUrl, Policy
from knowalledge.topics.openapi import OPERATIONS
from knowalledge.topics.popularity.memory import MemoryPopularity
from knowalledge.topics.popularity.redis import RedisPopularity
from knowalledge.topics.ports import Popularity
from knowalledge.topics.service import Completes, Topics
from knowalledge.topics.warming import HALF_LIFE_S, MAX_TRACKED, Warming
from knowalledge.web.context import WebContext

# Popular answers are refreshed only while every window of a target has this share to spare.
SPARE = 0.5
# Memory for parsed URLs.
MEMO_BYTES = 4 * 1024**2


class TopicsFeature(Feature, frozen=True, kw_only=True):
    """``popular`` gives the paths of the questions that are kept warm, the most popular first."""

    popular: Callable[[], tuple[str, ...]]


def build(
    model: ModelSettings,
    gateway: Completes,
    quota: QuotaStore,
    caches: Caches,
    settings: CacheSettings,
    redis: RedisConnection | None,
    web_context: WebContext,
    clock: Clock,
    *,
    public: bool,
    timeout_s: float,
) -> TopicsFeature:
    """``model`` answers. ``public``: caches outside may share answers. ``timeout_s``: the deadline of a request."""
    layers = caches.reads.layers
    small = is_demonstration(model)
    topics = Topics(
        gateway,
        caches.reads,
        clock,
        prompt_files.load(small),
        model.name,
        caches.metrics,
        lambda query: warming.record_query(query),
        small=small,
    )
    warming = Warming(
        topics,
        _popularity(redis, clock),
        clock,
        layers.lifetimes.life_s,
        partial(has_spare, quota, tuple(it.name for it in model.targets)),
        lambda: uuid4().hex,
    )
    policy = Policy(
        browser_s=int(settings.browser_ttl),
        cdn_s=int(settings.cdn_ttl),
        stale_s=int(settings.stale_ttl),
        public=public,
        shared=layers.shared is not None,
    )
    memo: Sieve[str, ParsedUrl] = Sieve(MEMO_BYTES)
    return TopicsFeature(
        blueprints=(web.blueprint(web_context, topics, policy, memo, timeout_s),),
        middleware=lambda inner: FastPath(inner, web_context, topics, policy, memo),
        operations=tuple(map(_open_to_all, OPERATIONS)) if public else OPERATIONS,
        client_limited=True,
        tasks=(Task("topics.warm", warming.round_s, warming.round),) if settings.keep_warm else (),
        popular=lambda: tuple(query.path for query in warming.popular),
    )


def _open_to_all(operation: Operation) -> Operation:
    """Public documents need no key; what is posted does."""
    return replace(operation, access=Access.PUBLIC) if operation.method == "get" else operation


def _popularity(redis: RedisConnection | None, clock: Clock) -> Popularity:
    if redis is None:
        return MemoryPopularity(clock, HALF_LIFE_S, MAX_TRACKED)
    return RedisPopularity(redis.commands, redis.breaker, HALF_LIFE_S, MAX_TRACKED, redis.prefix)


def has_spare(quota: QuotaStore, targets: tuple[str, ...]) -> bool:
    """Whether a target has quota that no other request will miss."""
    return any(
        all(it.used <= SPARE * it.window.limit for it in quota.window_status(target)) for target in targets
    )
