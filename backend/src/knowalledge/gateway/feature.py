"""Requests to models: the gateway within the quota, and the dialects that clients call it in."""

from collections.abc import Mapping
from functools import partial
from secrets import token_hex

from flask import Request

from knowalledge.core.clock import Clock
from knowalledge.core.feature import Feature
from knowalledge.gateway.api import dialects
from knowalledge.gateway.api.context import ApiContext
from knowalledge.gateway.api.paths import tidy_paths
from knowalledge.gateway.domain.estimate import Estimator
from knowalledge.gateway.domain.routing import Breaker, RetryBudget
from knowalledge.gateway.ports import Telemetry
from knowalledge.gateway.service.catalog import ModelCatalog, ModelRoutes
from knowalledge.gateway.service.dispatcher import Dispatcher
from knowalledge.gateway.service.gateway import QuotaGateway
from knowalledge.quota.ports import QuotaStore


def make_gateway(
    routes: Mapping[str, ModelRoutes],
    default_model: str,
    quota: QuotaStore,
    telemetry: Telemetry,
    clock: Clock,
    *,
    timeout_s: float,
    queue_timeout_s: float,
) -> QuotaGateway:
    """The gateway without caches. ``timeout_s``: the deadline of a request that names none."""
    targets = (target.name for model in routes.values() for target in model.targets)
    dispatcher = Dispatcher(
        catalog=ModelCatalog(routes, default_model),
        quota=quota,
        clock=clock,
        new_id=partial(token_hex, 16),
        telemetry=telemetry,
        timeout_s=timeout_s,
        patience_s=queue_timeout_s,
        retry_budget=RetryBudget(),
        estimator=Estimator(),
        breakers={name: Breaker() for name in targets},
        headroom={},
    )
    return QuotaGateway(dispatcher)


def build(api: ApiContext) -> Feature:
    """The routes of every dialect."""

    def record_failure(http: Request, error: BaseException) -> None:
        if http.blueprint in dialects.NAMES:
            api.record_failure(http, error)

    return Feature(
        blueprints=tuple(dialect.blueprint(api) for dialect in dialects.DIALECTS),
        operations=tuple(it for dialect in dialects.DIALECTS for it in dialect.operations),
        client_limited=True,
        middleware=tidy_paths,
        error_form=dialects.error_form,
        on_error=record_failure,
    )
