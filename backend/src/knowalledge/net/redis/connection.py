"""The clients of one process for the Redis that replicas share."""

from msgspec import Struct
from redis import Redis

from knowalledge.core.clock import Clock
from knowalledge.core.health import Dependency
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.client import is_single_server, make_client
from knowalledge.net.redis.errors import REDIS_ERRORS, reason
from knowalledge.net.redis.multiplexed import MultiplexedClient
from knowalledge.net.redis.probe import try_write
from knowalledge.net.redis.settings import RedisSettings


class RedisConnection(Struct, frozen=True):
    """Two clients, for two kinds of commands, and a breaker."""

    commands: Redis | MultiplexedClient  # for commands and scripts that return at once
    pool: Redis  # for blocking commands
    breaker: RedisBreaker  # for callers that can do without Redis
    timeout_s: float
    prefix: str = ""  # of every key and channel

    def check(self, clock: Clock) -> Dependency:
        """Whether Redis executes a write by each client, and the latency of both together."""
        started = clock.monotonic()
        try:
            try_write(self.commands, self.prefix)
            try_write(self.pool, self.prefix)
        except REDIS_ERRORS as error:
            return Dependency("redis", False, 0.0, reason(error))
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
    return RedisConnection(commands, pool, RedisBreaker(clock), timeout_s, settings.prefix)
