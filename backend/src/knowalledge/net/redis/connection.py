"""The clients of one process for the Redis that replicas share."""

from msgspec import Struct
from redis import Redis
from redis.exceptions import RedisError

from knowalledge.core.clock import Clock
from knowalledge.core.health import Dependency
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.client import is_single_server, make_client
from knowalledge.net.redis.multiplexed import MultiplexedClient
from knowalledge.net.redis.settings import RedisSettings


class RedisConnection(Struct, frozen=True):
    """Two clients, for two kinds of commands, and a breaker."""

    commands: Redis | MultiplexedClient  # for commands and scripts that return at once
    pool: Redis  # for blocking commands
    breaker: RedisBreaker  # for callers that can do without Redis
    timeout_s: float

    def check(self, clock: Clock) -> Dependency:
        """Whether Redis answers a ping, and its latency."""
        started = clock.monotonic()
        try:
            self.pool.ping()
        except RedisError as error:
            return Dependency("redis", False, 0.0, type(error).__name__)
        return Dependency("redis", True, round((clock.monotonic() - started) * 1000, 2))


def connect(url: str, settings: RedisSettings, max_connections: int, clock: Clock) -> RedisConnection | None:
    """The clients, or None without a URL. Connects at the first command, to a Cluster at once.

    ``max_connections``: at least the number of concurrent requests; a full pool would look like an outage.
    """
    if not url:
        return None
    timeout_s = settings.timeout
    pool = make_client(url, timeout_s, max_connections)
    commands = MultiplexedClient(url, timeout_s, pool.pubsub) if is_single_server(url) else pool
    return RedisConnection(commands, pool, RedisBreaker(clock), timeout_s)
