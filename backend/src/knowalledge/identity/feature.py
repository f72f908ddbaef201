"""How often one client may call, as a feature."""

from collections.abc import Callable, Sequence

from redis import Redis
from werkzeug.middleware.proxy_fix import ProxyFix

from knowalledge.core.feature import Feature
from knowalledge.identity.client_limit import ClientRate, blueprint
from knowalledge.identity.settings import ClientSettings


def build(
    settings: ClientSettings,
    tenant_header: str,
    features: Sequence[Feature],
    redis: Redis | None,
    now: Callable[[], float],
) -> Feature:
    """Limits the requests to the features that say so. Nothing without ``clients.rate``."""
    if not settings.rate:
        return Feature()
    names = frozenset(it.name for feature in features if feature.client_limited for it in feature.blueprints)
    # A Cluster has a pool per node, which the library cannot use: there each replica counts alone.
    pool = getattr(redis, "connection_pool", None)
    rate = ClientRate(settings.rate, tenant_header, pool)
    return Feature(
        blueprints=(blueprint(rate, names, now),),
        middleware=(lambda inner: ProxyFix(inner, settings.proxies, x_proto=0)) if settings.proxies else None,
    )
