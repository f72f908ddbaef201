"""The wiring: settings in, an application out. Only this module knows every capability; it does no IO.

To add a capability: a package with a ``feature.py``, and a line here that builds it.
"""

from flask import Flask

from knowalledge.caching import feature as caching
from knowalledge.caching.service import CachingGateway
from knowalledge.config.settings import Settings
from knowalledge.console import feature as console
from knowalledge.core.feature import Feature
from knowalledge.gateway import feature as gateways
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.ports import Gateway
from knowalledge.gateway.telemetry import GatewayTelemetry
from knowalledge.identity import feature as identity
from knowalledge.infrastructure import Infrastructure, make_infrastructure
from knowalledge.lifecycle import Lifecycle
from knowalledge.observability import feature as observability
from knowalledge.observability.logging import audit, configure
from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.providers.targets import make_routes
from knowalledge.quota import feature as quotas
from knowalledge.quota.ports import QuotaStore
from knowalledge.topics import feature as topics
from knowalledge.web.application import make_application
from knowalledge.web.docs import feature as docs


def create_app(settings: Settings, metrics: PrometheusMetrics | None = None) -> Flask:
    """Everything built and joined; connects to nothing yet. ``metrics``: a registry that is still empty."""
    configure(settings.log.level, settings.log.format)
    base = make_infrastructure(settings, metrics or PrometheusMetrics())
    capabilities = build_capabilities(base)
    pages = console.build(capabilities, settings.models, settings.default.name, base.clock)
    lifecycle = Lifecycle((*capabilities, pages), base.supervisor)
    redis, clock = base.redis, base.clock
    health = observability.build_health(
        lifecycle.not_alive,
        lifecycle.not_ready,
        lifecycle.notes,
        dependencies=lambda: (redis.check(clock),) if redis else (),
        refresh=lifecycle.refresh_metrics,
        render=base.metrics.render,
    )
    features = (*capabilities, pages, health)
    app = make_application((*features, docs.build(features)), base.web)
    app.extensions["knowalledge"], app.extensions["knowalledge_http"] = lifecycle, base.web.observer
    return app


def build_capabilities(base: Infrastructure) -> tuple[Feature, ...]:
    """Every capability, in the order in which they are started; the middleware of the first sees a request first."""
    settings, redis, web, clock, metrics = base.settings, base.redis, base.web, base.clock, base.metrics
    tracing = observability.build_tracing(settings.tracing, settings.targets, web.new_id, clock, metrics)
    callers = identity.build_authentication(
        settings.auth, settings.limits, settings.database_url, redis, web, clock
    )
    windows = {it.name: it.windows for it in settings.targets}
    quota = quotas.build(
        windows,
        settings.queue,
        redis.commands if redis else None,
        clock,
        metrics,
        base.supervisor,
        callers.weights,
        settings.redis.replicas,
        settings.redis.prefix,
    )
    telemetry = GatewayTelemetry(metrics)
    direct = make_gateway(base, quota.store, telemetry)
    caches = caching.make_caches(settings.cache, redis, clock, metrics)
    cached = CachingGateway(
        direct, caches.reads, clock, telemetry, caches.metrics, timeout_s=settings.request.timeout
    )
    gateway = gateways.build(ApiContext(web, cached, telemetry, settings.server.heartbeat))
    knowledge = topics.build(
        settings.default,
        direct,
        quota.store,
        caches,
        settings.cache,
        redis,
        web,
        clock,
        public=settings.auth.topics_are_public,
        timeout_s=settings.request.timeout,
    )
    prices = {it.name: it.price for it in settings.models if it.price}
    capabilities: tuple[Feature, ...] = (
        tracing,
        observability.build_process(metrics, clock),
        identity.build_cors(settings.cors),
        callers,
        quota,
        gateway,
        knowledge,
        caching.build(caches, settings.cdn, prices, knowledge.popular, web, audit),
    )
    pool, prefix = redis.pool if redis else None, settings.redis.prefix
    limited = identity.build(settings.clients, web.tenant_header, capabilities, pool, clock.now, prefix)
    return (*capabilities, limited)


def make_gateway(base: Infrastructure, quota: QuotaStore, telemetry: GatewayTelemetry) -> Gateway:
    """Asks the providers, within their quota and without a cache."""
    settings = base.settings
    return gateways.make_gateway(
        make_routes(settings.models, settings.provider.proxy, base.clock),
        settings.default.name,
        quota,
        telemetry,
        base.clock,
        timeout_s=settings.request.timeout,
        queue_timeout_s=settings.queue.timeout,
    )
