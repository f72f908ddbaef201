"""Clients of Redis by address: one server, a master that Sentinels know, or a Cluster.

    redis://HOST:PORT/DB   rediss://...   unix:///PATH
    redis+sentinel://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]/MASTER[/DB]
    redis+cluster://[USER:PASSWORD@]HOST:PORT[,HOST:PORT...]

All keys of a target bear its hash tag, and those of the caches theirs, so every script finds its keys on one node.
"""

from typing import Any, cast
from urllib.parse import unquote, urlsplit

from redis import Redis, RedisCluster
from redis.cluster import ClusterNode
from redis.sentinel import Sentinel

# The library has no types for these.
_sentinel: Any = Sentinel
_node: Any = ClusterNode

SENTINEL, CLUSTER = "redis+sentinel", "redis+cluster"


def plain(url: str) -> bool:
    """Whether the address is that of one server, which one line can be kept to."""
    return urlsplit(url).scheme not in (SENTINEL, CLUSTER) and "?" not in url


def client(url: str, timeout_s: float, connections: int) -> Redis:
    """A client; connects at its first command, a Cluster's at once. ``connections``: at most so many at a time."""
    parts = urlsplit(url)
    if parts.scheme not in (SENTINEL, CLUSTER):
        return Redis.from_url(
            url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, max_connections=connections
        )
    login, _, places = parts.netloc.rpartition("@")
    user, _, password = login.partition(":")
    nodes = [_place(it, 26379 if parts.scheme == SENTINEL else 6379) for it in places.split(",")]
    access: dict[str, Any] = {
        "username": unquote(user) or None,
        "password": unquote(password) or None,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "max_connections": connections,
    }
    if parts.scheme == SENTINEL:
        name, _, db = parts.path.strip("/").partition("/")
        sentinels = _sentinel(nodes, socket_timeout=timeout_s, socket_connect_timeout=timeout_s)
        return cast("Redis", sentinels.master_for(name, db=int(db or 0), **access))
    cluster = RedisCluster(startup_nodes=[_node(host, port) for host, port in nodes], **access)
    # It has the same commands, without sharing a type.
    return cast("Redis", cluster)


def one_node(redis: Redis) -> Redis:
    """A server of a Cluster to look at, or the server itself."""
    cluster: Any = redis
    if hasattr(cluster, "get_random_node"):
        node: Redis = cluster.get_redis_connection(cluster.get_random_node())
        return node
    return redis


def _place(text: str, port: int) -> tuple[str, int]:
    host, colon, number = text.rpartition(":")
    return (host, int(number)) if colon and number.isdecimal() else (text, port)
