"""How often one client may ask, whatever its requests cost: the guard before the quota, not the quota.

A client is the tenant that a trusted front has named, else the address that the connection, or the last proxy that is
trusted, shows. Off unless ``clients.rate`` is set. Answers that memory gives before the framework is asked are not
counted: they cost less than counting does.
"""

import logging
from collections.abc import Callable, Set
from math import ceil

from flask import Flask, Request, Response, request
from flask_limiter import Limiter
from flask_limiter.errors import RateLimitExceeded
from msgspec import Struct
from redis import ConnectionPool
from werkzeug.middleware.proxy_fix import ProxyFix

from knowalledge.core.errors import ClientLimited

PREFIX = "knowalledge:clients"
MOST = 128  # characters of a tenant's name


class ClientRate(Struct, frozen=True):
    """``rate`` as flask-limiter writes it (``600/minute``); ``pool`` leads to the Redis that the replicas share."""

    rate: str
    proxies: int  # in front, which are trusted to say who asks
    tenant_header: str  # as WSGI names it; empty: nobody names tenants
    pool: ConnectionPool | None


def client_of(request: Request, tenant_header: str) -> str:
    """Whose requests are counted together. A name that is not fit for a tenant is refused later; here it is bounded."""
    tenant = request.environ.get(tenant_header, "") if tenant_header else ""
    return f"tenant:{tenant[:MOST]}" if tenant else f"address:{request.remote_addr}"


def limit(app: Flask, clients: ClientRate, blueprints: Set[str], now: Callable[[], float]) -> None:
    """Count each client's requests to these blueprints over a sliding window and refuse those above the rate.

    When Redis is gone each replica counts for itself: that is more than the rate for a while, and nobody is refused
    for a fault of ours.
    """
    if clients.proxies:
        app.wsgi_app = ProxyFix(app.wsgi_app, clients.proxies, x_proto=0)  # type: ignore[method-assign]
    # It writes the addresses of those whom it refuses.
    logging.getLogger("flask-limiter").setLevel(logging.WARNING)
    limiter = Limiter(
        lambda: client_of(request, clients.tenant_header),
        app=app,
        application_limits=[clients.rate],
        application_limits_exempt_when=lambda: request.blueprint not in blueprints,
        strategy="sliding-window-counter",
        storage_uri="memory://" if clients.pool is None else "redis://",
        storage_options={} if clients.pool is None else {"connection_pool": clients.pool},  # type: ignore[dict-item]
        in_memory_fallback_enabled=True,
        key_prefix=PREFIX,
    )

    @app.errorhandler(RateLimitExceeded)
    def refused(error: RateLimitExceeded) -> Response:
        found = limiter.current_limit
        after = max(1, ceil(found.reset_at - now())) if found else error.limit.limit.get_expiry()
        answer = app.handle_user_exception(
            ClientLimited(f"one client may ask {error.limit.limit}", retry_after=after)
        )
        return app.make_response(answer)
