"""Clients of redis-py for every kind of address, which ``address.py`` lists.

All keys of one target share a hash tag, and so do those of the caches: a script's keys are on one node of a Cluster.
"""

from collections.abc import Callable
from typing import Any, Self, assert_never, cast

from gevent.lock import Semaphore
from redis import ConnectionPool, Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection, SentinelManagedSSLConnection

from knowalledge.net.redis.address import RedisKind, parse_redis_address
from knowalledge.net.redis.errors import REDIS_ERRORS, needs_new_connection

# The library has no types for these.
_sentinel: Any = Sentinel
_node: Any = ClusterNode


class _Renewed:
    """A connection that closes when only another one can help: the next command looks the server's name up again."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        connection: Any = super()
        try:
            return connection.read_response(*args, **options)
        except RedisError as error:
            if needs_new_connection(error):
                connection.disconnect()
            raise


class _PlainConnection(_Renewed, Connection): ...


class _TlsConnection(_Renewed, SSLConnection): ...


class _UnixConnection(_Renewed, UnixDomainSocketConnection): ...


class _SentinelConnection(_Renewed, SentinelManagedConnection): ...


class _SentinelTlsConnection(_Renewed, SentinelManagedSSLConnection): ...


class LazyCluster:
    """A client of a Cluster that connects at its first command, and again at a later one where that failed.

    redis-py's connects when it is made: a Cluster that is away would end the process.
    """

    connection_pool = None  # each node has its own

    def __init__(self, make: Callable[[], RedisCluster]) -> None:
        self._make = make
        self._cluster: Any = None
        self._lock = Semaphore()
        self._attempts = 0
        self._last_failure: Exception | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connected(), name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def _connected(self) -> Any:
        """One greenlet connects; those that come meanwhile share its client or its failure."""
        attempts = self._attempts
        if self._cluster is None:
            with self._lock:
                if self._cluster is None:
                    if self._attempts != attempts and self._last_failure is not None:
                        raise self._last_failure
                    self._attempts += 1
                    try:
                        self._cluster = self._make()
                    except REDIS_ERRORS as error:
                        self._last_failure = error
                        raise
        return self._cluster


def is_single_server(url: str) -> bool:
    """Whether a URL names one server: ``MultiplexedClient`` supports these only."""
    return parse_redis_address(url).kind in (RedisKind.SERVER, RedisKind.UNIX)


def make_client(url: str, timeout_s: float, connections: int) -> Redis:
    """A pooled client. Connects at the first command.

    ``timeout_s``: seconds to connect and to wait for a reply. ``connections``: the most at a time, per node.
    """
    address = parse_redis_address(url)
    # A command is never sent twice, and one that fails is not waited for again.
    once = Retry(NoBackoff(), 0)
    timeouts = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    login = {"username": address.username, "password": address.password}
    options: dict[str, Any] = {**timeouts, **login, "max_connections": connections}
    match address.kind:
        case RedisKind.SERVER:
            (host, port), kind = address.hosts[0], _TlsConnection if address.tls else _PlainConnection
            pool = ConnectionPool(
                connection_class=kind, host=host, port=port, db=address.db, retry=once, **options
            )
            return Redis.from_pool(pool)
        case RedisKind.UNIX:
            pool = ConnectionPool(
                connection_class=_UnixConnection, path=address.path, db=address.db, retry=once, **options
            )
            return Redis.from_pool(pool)
        case RedisKind.SENTINEL:
            sentinels = _sentinel(
                address.hosts,
                sentinel_kwargs={
                    **timeouts,
                    "username": address.sentinel_username,
                    "password": address.sentinel_password,
                    "ssl": address.tls,
                },
            )
            connection = _SentinelTlsConnection if address.tls else _SentinelConnection
            options |= {"retry": once, "connection_class": connection, "db": address.db}
            return cast("Redis", sentinels.master_for(address.master, **options))
        case RedisKind.CLUSTER:
            nodes = [_node(host, port) for host, port in address.hosts]
            if address.tls:
                options["ssl"] = True
            # It has the same commands, but no common type.
            return cast("Redis", LazyCluster(lambda: RedisCluster(startup_nodes=nodes, **options)))
        case _:
            assert_never(address.kind)


def any_node(redis: Redis) -> Redis:
    """A client of any node of a Cluster, or of the server itself: for commands about one server."""
    cluster: Any = redis
    if hasattr(cluster, "get_random_node"):
        node: Redis = cluster.get_redis_connection(cluster.get_random_node())
        return node
    return redis
