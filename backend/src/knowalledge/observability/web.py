"""What operators and probes ask: health, readiness, metrics, statistics."""

from collections.abc import Callable
from typing import Literal

from flask import Blueprint, Response
from msgspec import Struct

from knowalledge.web.responses import json_response


class Dependency(Struct, frozen=True):
    """Something that the gateway needs, and how it is."""

    name: str
    ok: bool
    latency_ms: float
    note: str = ""


class Health(Struct, frozen=True):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Readiness(Struct, frozen=True):
    """Whether to send requests here; ``notes`` are for an operator to know."""

    status: Literal["ready", "not ready"]
    reasons: tuple[str, ...]
    notes: tuple[str, ...]


class DetailedHealth(Struct, frozen=True):
    """Every dependency."""

    status: Literal["ok", "degraded"]
    dependencies: tuple[Dependency, ...]


class WindowStats(Struct, frozen=True):
    """One window of a target's quota; ``reserved`` is the part of ``used`` that running requests hold."""

    window: str
    count: str
    limit: int
    learnt: bool
    used: int
    reserved: int
    resets_in_s: float


class Drift(Struct, frozen=True):
    """Tokens by which the truth was more than the estimates, summed; below zero it was less."""

    input_tokens: int
    output_tokens: int


class TargetQuota(Struct, frozen=True):
    """The windows of a target, and what has happened to its quota over all replicas."""

    windows: tuple[WindowStats, ...]
    settled: int
    released: int
    refused: int
    provider_429s: int
    drift: Drift


class QuotaStats(Struct, frozen=True):
    """What is used and left, by target; ``degraded`` while this replica spends its part of it alone."""

    degraded: bool
    targets: dict[str, TargetQuota]


class TenantStats(Struct, frozen=True):
    """A tenant at one level: who waits, when a newcomer's turn would be, and how those before them left."""

    waiting: int
    oldest_s: float
    eta_s: float
    left: dict[str, int]


class LevelStats(TenantStats, frozen=True):
    """The same of a whole level, and of up to a hundred of its tenants, those first that have somebody waiting."""

    tenants: dict[str, TenantStats]


class QueueStats(Struct, frozen=True):
    """The waiting rooms, by target and level."""

    targets: dict[str, dict[str, LevelStats]]


class Operations(Struct, frozen=True):
    """The questions that operators may ask, as functions."""

    ready: Callable[[], tuple[str, ...]]  # the reasons for not being ready
    notes: Callable[[], tuple[str, ...]]  # what is amiss though it is ready
    dependencies: Callable[[], tuple[Dependency, ...]]
    metrics: Callable[[], bytes]
    quota_stats: Callable[[], object]
    queue_stats: Callable[[], object]


_NO_STORE = [("Cache-Control", "no-store")]


def blueprint(operations: Operations) -> Blueprint:
    """The routes for operators."""
    routes = Blueprint("operations", __name__)

    @routes.get("/api/health")
    def health() -> Response:
        return json_response(Health(), _NO_STORE)

    @routes.get("/api/ready")
    def ready() -> Response:
        reasons = operations.ready()
        body = Readiness("not ready" if reasons else "ready", reasons, operations.notes())
        return json_response(body, _NO_STORE, 503 if reasons else 200)

    @routes.get("/api/health/detailed")
    def detailed() -> Response:
        found = operations.dependencies()
        well = all(it.ok for it in found)
        return json_response(DetailedHealth("ok" if well else "degraded", found), _NO_STORE)

    @routes.get("/metrics")
    @routes.get("/api/metrics")
    def metrics() -> Response:
        return Response(operations.metrics(), content_type="text/plain; version=0.0.4; charset=utf-8")

    @routes.get("/api/quota/stats")
    def quota_stats() -> Response:
        return json_response(operations.quota_stats(), _NO_STORE)

    @routes.get("/api/queue/stats")
    def queue_stats() -> Response:
        return json_response(operations.queue_stats(), _NO_STORE)

    return routes
