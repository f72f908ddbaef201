"""Which servers are supported: Redis from 6.2 on, and Valkey, which names the Redis that it is compatible with."""

from knowalledge.core.settings import Fault
from knowalledge.net.redis.client import any_node, make_client
from knowalledge.net.redis.errors import REDIS_ERRORS

OLDEST = (6, 2)
CURE_OLD = "use Redis 6.2 or later, or Valkey"


def is_too_old(version: str) -> bool:
    """Whether a version such as 6.0.16 is not supported. What is no version is."""
    major, _, rest = version.partition(".")
    minor = rest.partition(".")[0]
    return major.isdecimal() and minor.isdecimal() and (int(major), int(minor)) < OLDEST


def unsupported(url: str, timeout_s: float) -> Fault | None:
    """The fault of a server that is too old; none without a URL, and while the server is away or may not say."""
    if not url:
        return None
    try:
        with make_client(url, timeout_s, 1) as client:
            version = str(any_node(client).info("server").get("redis_version", ""))
    except REDIS_ERRORS:
        return None
    if not is_too_old(version):
        return None
    return Fault("redis_url", f"the server is Redis {version}", CURE_OLD)
