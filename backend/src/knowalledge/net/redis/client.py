"""Redis clients by URL: one server, a master that Sentinels know, or a Cluster.

    redis://HOST:PORT/DB   rediss://...   unix:///PATH
    redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/MASTER[/DB]
    redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]

All keys of one target share a hash tag, and so do those of the caches: a script's keys are on one node of a Cluster.
"""

from typing import Any, cast
from urllib.parse import unquote, urlsplit

from redis import Redis, RedisCluster
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode
from redis.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import RedisError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelManagedConnection

from knowalledge.net.redis.errors import needs_new_connection

# The library has no types for these.
_sentinel: Any = Sentinel
_node: Any = ClusterNode

SENTINEL, CLUSTER = "redis+sentinel", "redis+cluster"


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


_CONNECTIONS: dict[str, Any] = {"rediss": _TlsConnection, "unix": _UnixConnection}


def is_single_server(url: str) -> bool:
    """Whether a URL names one server, without options: ``MultiplexedClient`` supports these only."""
    return urlsplit(url).scheme not in (SENTINEL, CLUSTER) and "?" not in url


def make_client(url: str, timeout_s: float, connections: int) -> Redis:
    """A pooled client. Connects at the first command, to a Cluster at once.

    ``timeout_s``: seconds to connect and to wait for a reply. ``connections``: the most at a time, per node.
    """
    parts = urlsplit(url)
    # A command is never sent twice, and one that fails is not waited for again.
    once = Retry(NoBackoff(), 0)
    if parts.scheme not in (SENTINEL, CLUSTER):
        return Redis.from_url(
            url,
            socket_timeout=timeout_s,
            socket_connect_timeout=timeout_s,
            max_connections=connections,
            retry=once,
            connection_class=_CONNECTIONS.get(parts.scheme, _PlainConnection),
        )
    login, _, hosts = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    nodes = [_host_port(it, 26379 if parts.scheme == SENTINEL else 6379) for it in hosts.split(",")]
    options: dict[str, Any] = {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "max_connections": connections,
    }
    if parts.scheme == SENTINEL:
        name, _, db = parts.path.strip("/").partition("/")
        sentinels = _sentinel(nodes, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        options |= {"retry": once, "connection_class": _SentinelConnection}
        return cast("Redis", sentinels.master_for(name, db=int(db or 0), **options))
    cluster = RedisCluster(startup_nodes=[_node(host, port) for host, port in nodes], **options)
    # It has the same commands, but no common type.
    return cast("Redis", cluster)


def any_node(redis: Redis) -> Redis:
    """A client of any node of a Cluster, or of the server itself: for commands about one server."""
    cluster: Any = redis
    if hasattr(cluster, "get_random_node"):
        node: Redis = cluster.get_redis_connection(cluster.get_random_node())
        return node
    return redis


def _host_port(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    return (host, int(port)) if colon and port.isdecimal() else (text, default_port)
