"""What probes, operators and Prometheus read."""

from collections.abc import Callable
from typing import Literal

from flask import Blueprint, Response
from msgspec import Struct

from knowalledge.core.access import Access
from knowalledge.core.health import Dependency
from knowalledge.core.openapi import Answer, Operation, Schema
from knowalledge.web.responses import NO_STORE, json_response


class Health(Struct, frozen=True, omit_defaults=True):
    """The process answers; it should be replaced while it is ``failing``, for these reasons."""

    status: Literal["ok", "failing"]
    reasons: tuple[str, ...] = ()


class Readiness(Struct, frozen=True):
    """Whether to send requests here; ``notes`` are for an operator to know."""

    status: Literal["ready", "not ready"]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


class DetailedHealth(Struct, frozen=True):
    """Every dependency."""

    status: Literal["ok", "degraded"]
    dependencies: tuple[Dependency, ...]


def _operation(
    rank: int,
    path: str,
    name: str,
    body: Schema | str,
    summary: str,
    not_ready: str = "",
    *,
    access: Access = Access.PUBLIC,
) -> Operation:
    return Operation(
        rank=rank,
        method="get",
        path=path,
        tag="operations",
        name=name,
        summary=summary,
        answer=Answer(body, headers=()),
        errors=None,
        not_ready=not_ready,
        access=access,
    )


OPERATIONS = (
    _operation(
        90, "/api/health", "health", Health, "Liveness; 503 while it is failing", not_ready="To be replaced."
    ),
    _operation(
        90, "/api/ready", "ready", Readiness, "Readiness; 503 while it is not ready", not_ready="Not ready."
    ),
    _operation(
        90,
        "/api/health/detailed",
        "health_detailed",
        DetailedHealth,
        "Every dependency, with its latency",
        access=Access.OPERATE,
    ),
    _operation(93, "/metrics", "metrics", "text/plain", "Prometheus' text format, over all workers"),
    _operation(93, "/api/metrics", "api_metrics", "text/plain", "The same"),
)


def blueprint(
    not_alive: Callable[[], tuple[str, ...]],
    not_ready: Callable[[], tuple[str, ...]],
    notes: Callable[[], tuple[str, ...]],
    dependencies: Callable[[], tuple[Dependency, ...]],
    metrics: Callable[[], bytes],
) -> Blueprint:
    """``not_alive`` gives the reasons to replace this process, ``not_ready`` those to send no requests here.

    ``metrics`` gives all series in Prometheus' text format.
    """
    routes = Blueprint("operations", __name__)

    @routes.get("/api/health")
    def health() -> Response:
        reasons = not_alive()
        return json_response(
            Health("failing" if reasons else "ok", reasons), NO_STORE, 503 if reasons else 200
        )

    @routes.get("/api/ready")
    def ready() -> Response:
        reasons = not_ready()
        body = Readiness("not ready" if reasons else "ready", reasons, notes())
        return json_response(body, NO_STORE, 503 if reasons else 200)

    @routes.get("/api/health/detailed")
    def detailed() -> Response:
        checked = dependencies()
        status: Literal["ok", "degraded"] = "ok" if all(it.ok for it in checked) else "degraded"
        return json_response(DetailedHealth(status, checked), NO_STORE)

    @routes.get("/metrics")
    @routes.get("/api/metrics")
    def all_metrics() -> Response:
        return Response(metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")

    return routes
