"""What every capability is built with: settings, the clock, metrics, Redis, what routes share, and the supervisor."""

from functools import partial
from secrets import token_hex

from msgspec import Struct

from knowalledge.config.settings import Settings
from knowalledge.core.clock import Clock, SystemClock
from knowalledge.core.context import Principal
from knowalledge.core.supervision import Supervisor
from knowalledge.net.redis.connection import RedisConnection, connect
from knowalledge.observability.metrics import PrometheusMetrics
from knowalledge.web.context import WebContext
from knowalledge.web.telemetry import HttpMetrics


class Infrastructure(Struct, frozen=True):
    """``redis`` is None where the gateway runs without one."""

    settings: Settings
    clock: Clock
    metrics: PrometheusMetrics
    redis: RedisConnection | None
    web: WebContext
    supervisor: Supervisor


def make_infrastructure(settings: Settings, metrics: PrometheusMetrics) -> Infrastructure:
    """Connects to nothing yet."""
    clock = SystemClock()
    web = WebContext(
        observer=HttpMetrics(metrics),
        new_id=partial(token_hex, 16),
        now=clock.now,
        anonymous=Principal(max_priority=settings.queue.max_level_anonymous),
        tenant_header=_wsgi_name(settings.auth.tenant_header),
        max_body=settings.server.max_body,
        max_timeout_s=settings.request.max_timeout,
    )
    redis = connect(settings.redis_url, settings.redis, settings.server.connections, clock)
    return Infrastructure(settings, clock, metrics, redis, web, Supervisor(metrics, clock))


def _wsgi_name(header: str) -> str:
    """A header's name as WSGI spells it."""
    return f"HTTP_{header.upper().replace('-', '_')}" if header else ""
