"""Whether Redis can be used, not only reached: a write by a script, as the quota writes."""

from knowalledge.net.redis.scripts import CommandExecutor, Script

# A server that became a replica, is full, or lost its disk still answers a ping.
_WRITE = Script("return redis.call('SET', KEYS[1], '1', 'PX', 60000)")
PROBE_KEY = b"kn:{probe}"


def try_write(client: CommandExecutor, prefix: str) -> None:
    """``prefix``: of the key. Raises what the client raises."""
    _WRITE(client, (prefix.encode() + PROBE_KEY,))
