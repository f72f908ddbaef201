"""The wiring: settings in, an application out. The only file that knows everybody; it does no IO."""

from collections.abc import Mapping
from functools import partial
from uuid import uuid4

from flask import Flask
from redis import Redis
from redis.exceptions import RedisError

from knowalledge.adapters import providers
from knowalledge.adapters.clock import SystemClock
from knowalledge.adapters.logging import LoggedTelemetry, configure
from knowalledge.adapters.memory.quota_store import MemoryQuotaStore
from knowalledge.adapters.providers import ProviderSpec
from knowalledge.adapters.redis.quota_store import RedisQuotaStore
from knowalledge.adapters.telemetry import Telemetry
from knowalledge.domain.estimate import Estimator
from knowalledge.domain.model import Principal
from knowalledge.domain.ports import Clock, QuotaStore
from knowalledge.domain.routing import Breaker
from knowalledge.service.complete import Completer
from knowalledge.service.run import Deck, Plan, Route
from knowalledge.settings import Settings, TargetSettings
from knowalledge.web import register
from knowalledge.web.edge import Edge
from knowalledge.web.operations import Dependency, Operations


def create_app(settings: Settings) -> Flask:
    """Everything built and joined; connects to nothing yet."""
    configure(settings["log.level"])
    clock = SystemClock()
    telemetry = Telemetry()
    told = LoggedTelemetry(telemetry)
    redis = connect(settings)
    quota = quota_store(settings, redis, clock)
    plans = build_plans(settings, clock)
    targets = [target.name for model in settings.models for target in model.targets]
    completer = Completer(
        Deck(
            plans=plans,
            default_model=settings.default_model,
            quota=quota,
            clock=clock,
            telemetry=told,
            timeout_s=settings["request.timeout"],
            estimator=Estimator(),
            breakers={name: Breaker() for name in targets},
            headroom={},
        )
    )
    app = Flask("knowalledge", static_folder=None)
    edge = Edge(
        completer=completer,
        observer=telemetry,
        telemetry=told,
        new_id=lambda: uuid4().hex,
        now=clock.now,
        anonymous=Principal(max_priority=settings["queue.max_level_anonymous"]),
        max_body=settings["server.max_body"],
        heartbeat_s=settings["server.heartbeat"],
        max_timeout_s=settings["request.max_timeout"],
    )
    stats = partial(quota_stats, quota, targets, telemetry)
    operations = Operations(
        ready=tuple,
        dependencies=partial(dependencies, redis, clock),
        metrics=lambda: (stats(), telemetry.render())[1],
        quota_stats=stats,
    )
    register(app, edge, operations)
    return app


def connect(settings: Settings) -> "Redis | None":
    """A client of the shared Redis, or None for a process on its own."""
    if not settings["redis_url"]:
        return None
    timeout = settings["redis.timeout"]
    return Redis.from_url(settings["redis_url"], socket_timeout=timeout, socket_connect_timeout=timeout)


def quota_store(settings: Settings, redis: "Redis | None", clock: Clock) -> QuotaStore:
    windows = {target.name: target.windows for model in settings.models for target in model.targets}
    if redis is None:
        return MemoryQuotaStore(windows, clock)
    return RedisQuotaStore(redis, windows, clock, replica=uuid4().hex[:12])


def build_plans(settings: Settings, clock: Clock) -> Mapping[str, Plan]:
    """The models of the settings, with a provider for each target."""
    return {
        model.name: Plan(
            model.name,
            tuple(Route(it.name, it.tier, providers.build(provider_spec(it), clock)) for it in model.targets),
            model.fallback,
        )
        for model in settings.models
    }


def provider_spec(target: TargetSettings) -> ProviderSpec:
    return ProviderSpec(
        provider=target.provider,
        model=target.model,
        base_url=target.base_url,
        project=target.project,
        location=target.location,
        api_key=target.api_key,
        credentials=target.credentials,
    )


def quota_stats(quota: QuotaStore, targets: list[str], telemetry: Telemetry) -> object:
    """Per target and window, what is used and left; the gauges are refreshed by the same look."""
    found = {}
    for target in targets:
        levels = quota.levels(target)
        telemetry.quota(target, [(it.window.name, it.used, it.window.limit) for it in levels])
        found[target] = {
            "windows": [
                {
                    "window": it.window.name,
                    "count": it.window.count,
                    "limit": it.window.limit,
                    "used": it.used,
                    "reserved": it.held,
                    "resets_in_s": round(it.resets_s, 1),
                }
                for it in levels
            ]
        }
    return {"targets": found}


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
