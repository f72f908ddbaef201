"""Limits the request rate of each client, whatever its requests cost. It guards the gateway; the quota is separate.

A client is the tenant that a trusted proxy has named, else the address of the connection, or that which the last
trusted proxy forwards. Off unless ``clients.rate`` is set. Answers from the fast path are not counted: they cost less
than counting would.
"""

import logging
from collections.abc import Callable, Set
from math import ceil
from typing import Any, cast

from flask import Blueprint, Flask, Request, Response, current_app, request
from flask_limiter import ApplicationLimit, Limiter
from flask_limiter.errors import RateLimitExceeded
from msgspec import Struct
from redis import ConnectionPool

from knowalledge.core.errors import ClientLimited

PREFIX = "knowalledge:clients"
MAX_TENANT = 128  # characters of a tenant's name in a key


class ClientRate(Struct, frozen=True):
    """How clients are identified and counted."""

    rate: str  # as flask-limiter writes it, such as 600/minute
    tenant_header: str  # as a WSGI environ key; empty: clients are addresses
    # Count the address beside a tenant, where proxies tell addresses apart: new names evade nothing then.
    counts_addresses: bool
    pool: ConnectionPool | None  # of the Redis that replicas share; None: this process counts alone
    prefix: str = ""  # of every key


def client_of(request: Request, tenant_header: str) -> str:
    """The key of the client that sent a request. An invalid tenant is rejected later; here its length is bounded."""
    tenant = request.environ.get(tenant_header, "") if tenant_header else ""
    return f"tenant:{tenant[:MAX_TENANT]}" if tenant else f"address:{request.remote_addr}"


def _below_error(record: logging.LogRecord) -> bool:
    return record.levelno < logging.ERROR


def blueprint(clients: ClientRate, blueprints: Set[str], now: Callable[[], float]) -> Blueprint:
    """Counts each client's requests to ``blueprints`` over a sliding window; above the rate, ``ClientLimited``.

    Without Redis each replica counts alone: clients may then exceed the rate, and none is refused for our outage.
    """
    # At INFO it logs the addresses of limited clients, and at ERROR the trace of each request that meets an outage.
    logging.getLogger("flask-limiter").setLevel(logging.WARNING)
    logging.getLogger("flask-limiter").addFilter(_below_error)

    def by_client() -> str:
        return client_of(request, clients.tenant_header)

    def by_address() -> str:
        return client_of(request, "")

    def exempt() -> bool:
        return request.blueprint not in blueprints

    limits = [ApplicationLimit(clients.rate, key_function=by_client, exempt_when=exempt)]
    if clients.tenant_header and clients.counts_addresses:
        limits.append(
            ApplicationLimit(clients.rate, key_function=by_address, exempt_when=exempt, scope="address")
        )
    storage: dict[str, Any] = {}
    if clients.pool is not None:
        # The name of the library's own prefix stays: counts go on through an update.
        storage = {"connection_pool": clients.pool, "key_prefix": f"{clients.prefix}LIMITS"}
    limiter = Limiter(
        by_client,
        application_limits=[*limits],
        strategy="sliding-window-counter",
        storage_uri="memory://" if clients.pool is None else "redis://",
        storage_options=storage,
        in_memory_fallback_enabled=True,
        # Requests that wait for Redis when another finds it gone are served uncounted; without this they are 500.
        swallow_errors=True,
        key_prefix=PREFIX,
    )

    routes = Blueprint("clients", __name__)
    routes.record_once(lambda state: limiter.init_app(cast("Flask", state.app)))

    @routes.app_errorhandler(RateLimitExceeded)
    def refuse(error: RateLimitExceeded) -> Response:
        current = limiter.current_limit
        after = max(1, ceil(current.reset_at - now())) if current else error.limit.limit.get_expiry()
        limited = ClientLimited(f"each client is limited to {error.limit.limit}", retry_after=after)
        return current_app.make_response(current_app.handle_user_exception(limited))

    return routes
