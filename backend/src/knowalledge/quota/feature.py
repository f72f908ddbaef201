"""The quota of every target, as a feature."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from uuid import uuid4

from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.core.feature import Feature
from knowalledge.core.metrics import Metrics
from knowalledge.core.supervision import Supervisor
from knowalledge.quota import web
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import LevelPolicy, Window
from knowalledge.quota.memory import MemoryQuotaStore
from knowalledge.quota.ports import QuotaStore
from knowalledge.quota.redis import Client, RedisQuotaStore
from knowalledge.quota.replica import ReplicaQuotaStore
from knowalledge.quota.settings import QueueSettings
from knowalledge.quota.stats import Statistics
from knowalledge.quota.telemetry import QuotaMetrics

# How far ahead of an even pace a level may spend whose share is limited: some three seconds of a minute. More serves
# more of its requests, and lets higher priorities wait longer.
PACED_BURST = 1 / 19
_ALONE = "redis is gone ({}): this replica spends its part of the quota alone"
_UNSEEN = "redis was never reached ({}): this replica spends one part in {} of the quota"
# A replica that has never seen the others takes itself for one of so many if ``redis.replicas`` does not say.
UNSEEN_REPLICAS = 10


class QuotaFeature(Feature, frozen=True, kw_only=True):
    """``store`` holds the quota of every target."""

    store: QuotaStore


def build(
    windows: Mapping[str, tuple[Window, ...]],
    settings: QueueSettings,
    redis: Client | None,
    clock: Clock,
    metrics: Metrics,
    supervisor: Supervisor,
    weights: Mapping[str, float],
    replicas: int = 0,
    prefix: str = "",
) -> QuotaFeature:
    """``windows``: what each target's provider allows. Without ``redis`` the quota is this process' own.

    ``weights``: of tenants, 1 where absent; read at every use, so they may change. ``replicas``: how many share the
    quota, 0 if that is not known. ``prefix``: of every key and channel.
    """
    rules, gauges = queue_rules(settings, weights), QuotaMetrics(metrics)
    local = MemoryQuotaStore(windows, rules, clock, supervisor=supervisor)
    if redis is None:
        return _feature(
            local, Statistics(local, tuple(windows), lambda: False, gauges), drain=local.shut_down
        )
    expected = replicas or UNSEEN_REPLICAS
    shared = RedisQuotaStore(
        redis, windows, rules, clock, replica=uuid4().hex[:12], supervisor=supervisor, prefix=prefix
    )
    store = ReplicaQuotaStore(shared, local, windows, clock, supervisor, gauges.loss, expected)
    return replace(
        _feature(
            store, Statistics(store, tuple(windows), lambda: store.degraded, gauges), drain=store.shut_down
        ),
        start=store.start,
        stop=store.stop,
        notes=lambda: _notes(store, expected),
    )


def _notes(store: ReplicaQuotaStore, expected: int) -> tuple[str, ...]:
    if not store.degraded:
        return ()
    return (_ALONE.format(store.reason) if store.has_joined else _UNSEEN.format(store.reason, expected),)


def _feature(store: QuotaStore, statistics: Statistics, drain: Callable[[], None]) -> QuotaFeature:
    return QuotaFeature(
        store=store,
        blueprints=(web.blueprint(statistics),),
        operations=web.OPERATIONS,
        drain=drain,
        refresh_metrics=statistics.refresh_metrics,
        statistics={"quota": statistics.quota, "queue": statistics.queue},
    )


def queue_rules(settings: QueueSettings, weights: Mapping[str, float] = MappingProxyType({})) -> QueueRules:
    """The rules of every target's queue. Levels whose share is limited are paced."""
    return QueueRules(
        capacity=settings.capacity,
        aging_s=settings.aging,
        weights=weights,
        policies={
            level: LevelPolicy(share, burst=PACED_BURST)
            for level, share in settings.holdback.items()
            if share < 1
        },
    )
