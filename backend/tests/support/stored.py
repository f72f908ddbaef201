"""What a test sees of Redis' contents."""

from typing import Any

from redis import Redis


def contents(redis: Redis) -> dict[bytes, Any]:
    """Every key and its value."""
    client: Any = redis  # whose types know of clients that do not answer at once
    read = {
        b"hash": client.hgetall,
        b"string": client.get,
        b"zset": lambda key: client.zrange(key, 0, -1, withscores=True),
    }
    return {key: read[client.type(key)](key) for key in client.scan_iter()}
