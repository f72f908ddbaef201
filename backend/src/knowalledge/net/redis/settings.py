"""Settings of the Redis that replicas share."""

from dataclasses import dataclass

from knowalledge.core.parsers import NotValid, duration, non_negative, text
from knowalledge.core.settings import setting
from knowalledge.net.redis.address import EXAMPLE, parse_redis_address


def redis_address(value: object) -> str:
    """The address of Redis as ``net/redis/address.py`` reads it, or empty."""
    url = text(value).strip()
    if url:
        try:
            parse_redis_address(url)
        except ValueError as error:
            raise NotValid(str(error), EXAMPLE) from None
    return url


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
