"""Settings of the Redis that replicas share."""

import re
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


def key_prefix(value: object) -> str:
    """What stands before keys: letters, digits and . _ : -, or nothing."""
    prefix = text(value)
    if not re.fullmatch(r"[A-Za-z0-9._:-]{0,64}", prefix):
        raise NotValid("write up to 64 letters, digits, and . _ : - such as staging:", "'staging:'")
    return prefix


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
    prefix: str = setting(
        key_prefix,
        "",
        "Before every key and channel: each environment on one Redis needs its own, such as staging:.",
    )
