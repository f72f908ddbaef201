"""The wiring: settings in, an application out. The only file that knows everybody; it does no IO."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from secrets import token_hex
from uuid import uuid4

from flask import Flask
from msgspec import structs
from redis import Redis
from redis.exceptions import RedisError

from knowalledge import __version__, caches
from knowalledge.caching.read_through import ReadThrough
from knowalledge.caching.service import CachingGateway
from knowalledge.caching.telemetry import CacheMetrics
from knowalledge.config.settings import Settings
from knowalledge.core.clock import Clock, SystemClock
from knowalledge.core.context import Principal
from knowalledge.core.settings import Fault
from knowalledge.gateway.api import dialects
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.domain.estimate import Estimator
from knowalledge.gateway.domain.routing import Breaker, RetryBudget
from knowalledge.gateway.service.execution import Dispatcher, ModelRoutes, Target
from knowalledge.gateway.service.gateway import QuotaGateway
from knowalledge.gateway.telemetry import GatewayTelemetry
from knowalledge.identity import client_limit as clients
from knowalledge.identity.client_limit import ClientRate
from knowalledge.net.background import Background, Task
from knowalledge.net.redis.client import is_single_server, make_client
from knowalledge.net.redis.multiplexed import MultiplexedClient
from knowalledge.observability.logging import configure
from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.observability.spans import FLUSH_S, Exporter, SpanTracer, TargetInfo
from knowalledge.observability.telemetry import SpanMetrics
from knowalledge.observability.tracing import trace
from knowalledge.observability.web import Dependency, Operations
from knowalledge.providers import registry as providers
from knowalledge.providers.descriptor import ProviderSpec
from knowalledge.providers.settings import TargetSettings
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules, TenantQueueStats
from knowalledge.quota.domain.window import LevelPolicy
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import QueueStats, QuotaStore
from knowalledge.quota.redis import Client, RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
from knowalledge.quota.telemetry import QuotaMetrics
from knowalledge.registration import register
from knowalledge.web.context import WebContext
from knowalledge.web.telemetry import HttpMetrics

# How far ahead of an even pace a level may spend that is held back: some three seconds of a
# minute. More serves more of it, and lets the urgent wait longer.
PACED_BURST = 1 / 19


def create_app(settings: Settings, metrics: PrometheusMetrics | None = None) -> Flask:
    """Everything built and joined; connects to nothing yet. ``metrics`` is a registry that holds none yet."""
    configure(settings.log.level)
    clock = SystemClock()
    metrics = metrics or PrometheusMetrics()
    telemetry, http_metrics = GatewayTelemetry(metrics), HttpMetrics(metrics)
    cache_metrics, quota_metrics = CacheMetrics(metrics), QuotaMetrics(metrics)
    span_metrics = SpanMetrics(metrics)
    redis = connect(settings)
    pipe = shared_line(settings, redis)
    quota = quota_store(settings, pipe, clock)
    plans = build_plans(settings, clock)
    targets = [target.name for model in settings.models for target in model.targets]
    deck = Dispatcher(
        plans=plans,
        default_model=settings.default.name,
        quota=quota,
        clock=clock,
        new_id=partial(token_hex, 16),
        telemetry=telemetry,
        timeout_s=settings.request.timeout,
        patience_s=settings.queue.timeout,
        retries=RetryBudget(),
        estimator=Estimator(),
        breakers={name: Breaker() for name in targets},
        headroom={},
    )
    completer = QuotaGateway(deck)
    cached = caches.build(settings, redis, pipe, clock, cache_metrics)
    answers = CachingGateway(
        completer,
        ReadThrough(cached.layers, cached.flights, clock),
        clock,
        telemetry,
        cache_metrics,
        timeout_s=settings.request.timeout,
    )
    app = Flask("knowalledge", static_folder=None)
    web = WebContext(
        observer=http_metrics,
        new_id=partial(token_hex, 16),
        now=clock.now,
        anonymous=Principal(max_priority=settings.queue.max_level_anonymous),
        tenant_header=wsgi_name(settings.auth.tenant_header),
        max_body=settings.server.max_body,
        max_timeout_s=settings.request.max_timeout,
    )
    api = ApiContext(web, answers, telemetry, settings.server.heartbeat)
    waiting = partial(queue_stats, quota, targets, quota_metrics)
    knowledge = caches.knowledge(settings, web, cached, completer, quota, clock, cache_metrics)
    spans = exporter(settings, span_metrics)
    sending: tuple[Task, ...] = ((FLUSH_S, spans.flush),) if spans else ()
    life = Lifecycle(quota, Background((*knowledge.tasks, *sending)), spans.close if spans else _nothing)
    stats = partial(quota_stats, quota, targets, quota_metrics, life.alone)
    operations = Operations(
        ready=life.reasons,
        dependencies=partial(dependencies, redis, clock),
        notes=life.notes,
        metrics=lambda: (stats(), waiting(), knowledge.gauges(), metrics.render())[3],
        quota_stats=stats,
        queue_stats=waiting,
    )
    register(app, api, operations)
    for routes in knowledge.routes:
        app.register_blueprint(routes)
    if settings.clients.rate:
        pool = getattr(
            redis, "connection_pool", None
        )  # a Cluster has one a node: there each replica counts alone
        rate = ClientRate(settings.clients.rate, settings.clients.proxies, web.tenant_header, pool)
        clients.limit(app, rate, dialects.NAMES | {"topics"}, clock.now)
    app.wsgi_app = knowledge.short(app.wsgi_app)  # type: ignore[method-assign, assignment]
    if spans:
        asked = {
            it.name: TargetInfo(it.spec.provider, it.spec.model)
            for model in settings.models
            for it in model.targets
        }
        trace(app, SpanTracer(clock, settings.tracing.sample, asked, spans.put), web.new_id)
    app.extensions["knowalledge"] = life
    return app


def _nothing() -> None:
    """There is nothing to end."""


def exporter(settings: Settings, metrics: SpanMetrics) -> Exporter | None:
    """The way of spans to their store, or None if there is none."""
    if not settings.tracing.endpoint:
        return None
    resource = {
        "service.name": "knowalledge",
        "service.version": __version__,
        "service.instance.id": uuid4().hex,
    }
    return Exporter(settings.tracing.endpoint, settings.tracing.timeout, resource, metrics.spans)


def wsgi_name(header: str) -> str:
    """A header's name as WSGI spells it."""
    return f"HTTP_{header.upper().replace('-', '_')}" if header else ""


class Lifecycle:
    """The process from its first request to its last: what runs beside requests, and the end."""

    def __init__(
        self,
        quota: MemoryQuotaStore | ReplicaQuotaStore,
        background: Background,
        last: Callable[[], None],
    ) -> None:
        """``last`` is done when all else is."""
        self._quota = quota
        self._background = background
        self._last = last
        self._ending = False

    def start(self) -> None:
        """In the process that serves, once."""
        self._background.start()
        if isinstance(self._quota, ReplicaQuotaStore):
            self._quota.start()

    def drain(self) -> None:
        """No new work: not ready any more, and everybody who waits for quota here is sent elsewhere."""
        self._ending = True
        self._quota.shut()

    def stop(self) -> None:
        """After the last answer: what is still on its way to Redis goes there."""
        self._background.stop()
        if isinstance(self._quota, ReplicaQuotaStore):
            self._quota.stop()
        self._last()

    def reasons(self) -> tuple[str, ...]:
        """Why this process should get no more requests."""
        return ("shutting down",) if self._ending else ()

    def notes(self) -> tuple[str, ...]:
        """What an operator should know though requests are served."""
        return ("redis is gone: this replica spends its part of the quota alone",) if self.alone() else ()

    def alone(self) -> bool:
        """Whether the shared quota cannot be asked."""
        return isinstance(self._quota, ReplicaQuotaStore) and self._quota.degraded


def connect(settings: Settings) -> "Redis | None":
    """A client of the shared Redis, or None for a process on its own."""
    if not settings.redis_url:
        return None
    # The library's own limit of 100 would make the 101st concurrent request look like an outage.
    return make_client(settings.redis_url, settings.redis.timeout, settings.server.connections)


def shared_line(settings: Settings, redis: "Redis | None") -> Client | None:
    """What the scripts are run through: one line for all greenlets, unless the address asks for more than it can."""
    url = settings.redis_url
    if redis is None or not is_single_server(url):
        return redis
    return MultiplexedClient(url, settings.redis.timeout, redis.pubsub)


def quota_store(
    settings: Settings, redis: Client | None, clock: Clock
) -> MemoryQuotaStore | ReplicaQuotaStore:
    windows = {target.name: target.windows for model in settings.models for target in model.targets}
    rules = rules_of(settings)
    local = MemoryQuotaStore(windows, rules, clock)
    if redis is None:
        return local
    shared = RedisQuotaStore(redis, windows, rules, clock, replica=uuid4().hex[:12])
    return ReplicaQuotaStore(shared, local, windows, clock)


def rules_of(settings: Settings) -> QueueRules:
    """How the waiting rooms are run."""
    return QueueRules(
        capacity=settings.queue.capacity,
        aging_s=settings.queue.aging,
        lanes={
            level: LevelPolicy(share, burst=PACED_BURST)
            for level, share in settings.queue.holdback.items()
            if share < 1
        },
    )


def unusable(settings: Settings, clock: Clock) -> Iterator[Fault]:
    """Targets that no provider can be made of: an address, a key or credentials that cannot be used."""
    for model in settings.models:
        for target in model.targets:
            try:
                providers.build(provider_spec(target, settings), clock).close()
            except ValueError as error:
                key = f"models.{model.name}.{target.name}"
                yield Fault(key, str(error), "correct the target, then try `knowalledge doctor`")


def build_plans(settings: Settings, clock: Clock) -> Mapping[str, ModelRoutes]:
    """The models of the settings, with a provider for each target."""
    return {
        model.name: ModelRoutes(
            model.name,
            tuple(
                Target(it.name, it.tier, providers.build(provider_spec(it, settings), clock))
                for it in model.targets
            ),
            model.fallback,
        )
        for model in settings.models
    }


def provider_spec(target: TargetSettings, settings: Settings) -> ProviderSpec:
    """How a target's provider is reached."""
    return structs.replace(target.spec, proxy=settings.provider.proxy)


def quota_stats(
    quota: QuotaStore, targets: list[str], metrics: QuotaMetrics, alone: Callable[[], bool]
) -> object:
    """Per target and window, what is used and left; the gauges are refreshed by the same look."""
    found = {}
    for target in targets:
        status = quota.window_status(target)
        metrics.windows(target, status)
        totals = quota.totals(target)
        found[target] = {
            "windows": [
                {
                    "window": it.window.name,
                    "count": it.window.count,
                    "limit": it.limit,
                    "learnt": it.window.learn,
                    "used": it.used,
                    "reserved": it.held,
                    "resets_in_s": round(it.resets_s, 1),
                }
                for it in status
            ],
            "settled": totals.settled,
            "released": totals.released,
            "refused": totals.refused,
            "provider_429s": totals.rejected,
            "drift": {"input_tokens": totals.drift_input, "output_tokens": totals.drift_output},
        }
    metrics.degraded(alone())
    return {"degraded": alone(), "targets": found}


def queue_stats(quota: QuotaStore, targets: list[str], metrics: QuotaMetrics) -> object:
    """Per target, level and tenant, who waits and how those before them left."""
    found = {}
    for target in targets:
        levels = {}
        for it in quota.queue_stats(target):
            metrics.queue(target, it)
            tenants = {name: crowd_stats(crowd) for name, crowd in it.tenants.items()}
            levels[it.level.label] = crowd_stats(it) | {"tenants": tenants}
        found[target] = levels
    return {"targets": found}


def crowd_stats(crowd: TenantQueueStats | QueueStats) -> dict[str, object]:
    """What a level and a tenant in it have in common."""
    return {
        "waiting": crowd.waiting,
        "oldest_s": round(crowd.oldest_s, 2),
        "eta_s": round(crowd.eta_s, 2),
        "left": {ending.value: crowd.left.get(ending, 0) for ending in QueueOutcome},
    }


def dependencies(redis: "Redis | None", clock: Clock) -> tuple[Dependency, ...]:
    """Everything that the gateway needs, asked now."""
    if redis is None:
        return ()
    began = clock.monotonic()
    try:
        redis.ping()
    except RedisError as error:
        return (Dependency("redis", False, 0.0, type(error).__name__),)
    return (Dependency("redis", True, round((clock.monotonic() - began) * 1000, 2)),)
