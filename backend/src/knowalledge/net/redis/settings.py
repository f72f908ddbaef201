"""Settings of the Redis that replicas share."""

from dataclasses import dataclass

from knowalledge.core.parsers import address, duration, non_negative
from knowalledge.core.settings import setting
from knowalledge.net.redis.client import CLUSTER, SENTINEL

redis_address = address("redis://127.0.0.1:6379/0", "redis", "rediss", "unix", SENTINEL, CLUSTER)


@dataclass(frozen=True)
class RedisSettings:
    """``redis.*``"""

    timeout: float = setting(
        duration,
        1.0,
        "The longest wait for a connection or a reply; a slower Redis counts as unavailable.",
    )
    replicas: int = setting(
        non_negative,
        0,
        "The most workers of all replicas together: until a worker has reached Redis it spends its part of so many; "
        "0: not known, a tenth.",
    )
