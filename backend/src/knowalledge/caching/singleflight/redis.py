"""Single flight over all replicas: a lease names the leader, a Redis stream carries its pieces.

Each worker has one run per key, so a thousand followers in it cost one reader. A leader renews its lease while it
works; when it dies, the lease expires and a follower's worker leads a new run. A leader that loses its lease without
dying (a frozen machine) writes to its own stream, which has no readers any more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import gevent
from msgspec import Struct

from knowalledge.caching.singleflight.memory import FlightRun, MemoryFlights, Work, lead
from knowalledge.core.clock import Clock
from knowalledge.gateway.domain.failures import failure_bytes, failure_of
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.scripts import CommandExecutor, Script

_JOIN = Script.load("knowalledge.caching", "flight_join")
_TELL = Script.load("knowalledge.caching", "flight_tell")
_READ = Script.load("knowalledge.caching", "flight_read")


class Pace(Struct, frozen=True):
    """Timing, in seconds."""

    lease: float = 3.0  # a dead leader is replaced after it
    block: float = 0.4  # of one blocking read; below the client's socket timeout; 0: poll only
    poll: float = 0.05  # between two reads that do not block
    keep: float = 60.0  # a leader's stream is kept for the slowest follower


# Flights that may hold a blocking connection each; further ones poll.
MAX_BLOCKING = 64


class RedisFlights(MemoryFlights):
    """Implements ``Flights`` over all replicas of one Redis; without Redis, within this process."""

    def __init__(
        self,
        client: CommandExecutor,
        breaker: RedisBreaker,
        clock: Clock,
        new_id: Callable[[], str],
        pace: Pace = Pace(),  # noqa: B008 - frozen
        blocking: CommandExecutor | None = None,
        prefix: str = "",
    ) -> None:
        """``prefix``: of every key.

        ``blocking``: a client with connections of its own, for blocking reads; ``client`` may multiplex one."""
        super().__init__(clock)
        self._prefix = prefix
        self._client = client
        self._blocking_client = blocking or client
        self._breaker = breaker
        self._new_id = new_id
        self._pace = pace
        self._blocking = 0

    def flying(self, key: str) -> bool:
        command = ("EXISTS", self._lease(key))
        return super().flying(key) or bool(
            self._breaker.run(lambda: self._client.execute_command(*command), 0)
        )

    def _lease(self, key: str) -> bytes:
        return f"{self._prefix}kn:{{flight:{key}}}:lease".encode()

    def _conduct(self, key: str, run: FlightRun, work: Work) -> None:
        token = self._new_id()
        lease = self._lease(key)
        while True:
            args = (token, int(self._pace.lease * 1000))
            holder = self._breaker.run(partial(_JOIN, self._client, (lease,), *args), None)
            if holder is None:  # Redis is unavailable
                lead(run, work, lambda _: None)
                return
            if holder == token.encode():
                self._lead(run, work, lease, token)
                return
            if self._follow(run, lease, holder.decode()):
                return
            run.restart()

    def _lead(self, run: FlightRun, work: Work, lease: bytes, token: str) -> None:
        keys = (lease, _log(lease, token))
        times = (int(self._pace.lease * 1000), int(self._pace.keep * 1000))

        def append(kind: str, data: bytes = b"") -> None:
            self._breaker.run(lambda: _TELL(self._client, keys, token, *times, kind, data), 0)

        def renew() -> None:
            while True:
                gevent.sleep(self._pace.lease / 3)
                append("alive")

        renewal = gevent.spawn(renew)
        last = "left"  # this greenlet was killed: another worker may lead at once
        data = b""
        try:
            error = lead(run, work, lambda piece: append("piece", piece))
            last, data = ("failed", failure_bytes(error)) if error else ("end", b"")
        finally:
            renewal.kill(block=False)
            append(last, data)

    def _follow(self, run: FlightRun, lease: bytes, holder: str) -> bool:
        """Publish the pieces of another worker's leader; False if it is lost before its end."""
        keys = (lease, _log(lease, holder))
        position = "0-0"
        while True:
            reply = self._breaker.run(partial(_READ, self._client, keys, holder, position), None)
            if reply is None:
                return False
            alive, *events = reply
            for id_, kind, data in zip(events[0::3], events[1::3], events[2::3], strict=True):
                position = id_.decode()
                if kind == b"piece":
                    run.publish(data)
                    continue
                run.end(failure_of(data) if kind == b"failed" else None)
                return True
            if not events:
                if not alive:
                    return False
                self._wait(keys[1], position)

    def _wait(self, log: bytes, position: str) -> None:
        """Wait for the leader's next piece, or until its lease has to be checked."""
        if not self._pace.block or self._blocking >= MAX_BLOCKING:
            gevent.sleep(self._pace.poll)
            return
        self._blocking += 1
        try:
            block = int(self._pace.block * 1000)
            self._breaker.run(lambda: self._read(block, log, position), None)
        finally:
            self._blocking -= 1

    def _read(self, block: int, log: bytes, position: str) -> Any:
        return self._blocking_client.execute_command(
            "XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", log, position
        )


def _log(lease: bytes, token: str) -> bytes:
    return lease.removesuffix(b"lease") + b"log:" + token.encode()
