"""What a capability brings to the process, so that adding one touches its own package and one line in ``app.py``."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import msgspec
from flask import Blueprint, Request
from msgspec import Struct

from knowalledge.core.openapi import ErrorForm, Operation

if TYPE_CHECKING:
    from _typeshed.wsgi import WSGIApplication


class Task(Struct, frozen=True):
    """Work beside requests: ``run`` is called again ``interval_s`` seconds after it returned.

    ``name`` is shown in logs and metrics, and by the liveness probe if the work cannot be kept alive.
    """

    name: str
    interval_s: float
    run: Callable[[], object]


def _nothing() -> None:
    """There is nothing to do."""


def _none() -> tuple[str, ...]:
    return ()


def _no_form(_: Request) -> ErrorForm | None:
    return None


def _not_recorded(_: Request, __: BaseException) -> None:
    """No failure of this request is recorded here."""


class Feature(Struct, frozen=True, kw_only=True):
    """One capability, built. A subclass may carry what other capabilities are built with.

    Features are started in their order and stopped in the reverse one. ``start`` runs in the process that serves, once,
    never in one that only forks. ``drain`` runs when the process shall end: no new work, requests still run. ``stop``
    runs after the last response.
    """

    blueprints: tuple[Blueprint, ...] = ()
    # Around the application; that of an earlier feature is around that of a later one.
    middleware: "Callable[[WSGIApplication], WSGIApplication] | None" = None
    operations: tuple[Operation, ...] = ()  # of its routes, for the OpenAPI document
    client_limited: bool = False  # whether ``clients.rate`` counts requests to its blueprints
    error_form: Callable[[Request], ErrorForm | None] = (
        _no_form  # of a failed request that is this capability's
    )
    on_error: Callable[[Request, BaseException], None] = _not_recorded  # called for every failed request

    tasks: tuple[Task, ...] = ()
    start: Callable[[], None] = _nothing
    drain: Callable[[], None] = _nothing
    stop: Callable[[], None] = _nothing

    not_ready: Callable[[], tuple[str, ...]] = _none  # reasons to send no requests here
    notes: Callable[[], tuple[str, ...]] = _none  # for operators, though requests are served
    refresh_metrics: Callable[[], None] = _nothing  # set gauges, before the metrics are read
    # What the operator's page shows of this capability, by name.
    statistics: Mapping[str, Callable[[], Struct]] = msgspec.field(default_factory=dict)
