"""One run of the same work at a time over all replicas: a lease says who leads, a stream carries the pieces.

Within a worker there is one run per key, whoever leads, so that a thousand followers here cost one reader. A leader
renews its lease while it works; when it dies the lease lapses and one of the followers' workers leads anew. A leader
that lost its lease without dying (a frozen machine) writes to its own stream, which nobody reads any more.
"""

from collections.abc import Callable
from typing import Any

import gevent
from msgspec import Struct

from knowalledge.caching.singleflight.memory import FlightRun, MemoryFlights, Work, lead
from knowalledge.core.clock import Clock
from knowalledge.gateway.domain.failures import failure_bytes, failure_of
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.net.redis.scripts import CommandExecutor, Script

_JOIN = Script("knowalledge.caching", "flight_join")
_TELL = Script("knowalledge.caching", "flight_tell")
_READ = Script("knowalledge.caching", "flight_read")


class Pace(Struct, frozen=True):
    """Seconds: how soon a dead leader is replaced, and how long followers wait for the next word."""

    lease: float = 3.0
    block: float = 0.4  # below the client's socket timeout; 0: never block, poll
    poll: float = 0.05  # ... between two looks when not blocking
    keep: float = 60.0  # what a leader said is kept for the slowest follower


# Followed flights that may hold a connection each; more of them poll.
MOST_BLOCKING = 64


class RedisFlights(MemoryFlights):
    """Implements ``Flights`` for every replica that names the same Redis; without it, within this process."""

    def __init__(
        self,
        client: CommandExecutor,
        outage: RedisBreaker,
        clock: Clock,
        new_id: Callable[[], str],
        pace: Pace = Pace(),  # noqa: B008 - frozen
        blocking: CommandExecutor | None = None,
    ) -> None:
        """``blocking``: a client with connections of its own, for reads that wait; ``client`` may share one."""
        super().__init__(clock)
        self._client = client
        self._waits = blocking or client
        self._outage = outage
        self._new_id = new_id
        self._pace = pace
        self._blocking = 0

    def flying(self, key: str) -> bool:
        command = ("EXISTS", _lease(key))
        return super().flying(key) or bool(
            self._outage.run(lambda: self._client.execute_command(*command), 0)
        )

    def _conduct(self, key: str, run: FlightRun, work: Work) -> None:
        token = self._new_id()
        lease = _lease(key)
        while True:
            args = (token, int(self._pace.lease * 1000))
            holder = self._outage.run(lambda args=args: _JOIN(self._client, (lease,), *args), None)  # type: ignore[misc]
            if holder is None:  # nobody to share with
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

        def tell(kind: str, data: bytes = b"") -> None:
            self._outage.run(lambda: _TELL(self._client, keys, token, *times, kind, data), 0)

        def beat() -> None:
            while True:
                gevent.sleep(self._pace.lease / 3)
                tell("alive")

        alive = gevent.spawn(beat)
        last = "left"  # killed: let another lead at once
        data = b""
        try:
            error = lead(run, work, lambda piece: tell("piece", piece))
            last, data = ("failed", failure_bytes(error)) if error else ("end", b"")
        finally:
            alive.kill(block=False)
            tell(last, data)

    def _follow(self, run: FlightRun, lease: bytes, holder: str) -> bool:
        """Repeat what another worker's leader says; False when it is gone without an end."""
        keys = (lease, _log(lease, holder))
        at = "0-0"
        while True:
            reply = self._outage.run(lambda at=at: _READ(self._client, keys, holder, at), None)  # type: ignore[misc]
            if reply is None:
                return False
            alive, *events = reply
            for id_, kind, data in zip(events[0::3], events[1::3], events[2::3], strict=True):
                at = id_.decode()
                if kind == b"piece":
                    run.publish(data)
                    continue
                run.end(failure_of(data) if kind == b"failed" else None)
                return True
            if not events:
                if not alive:
                    return False
                self._wait(keys[1], at)

    def _wait(self, log: bytes, at: str) -> None:
        """Until the leader says something more, or it is time to see whether it lives."""
        if not self._pace.block or self._blocking >= MOST_BLOCKING:
            gevent.sleep(self._pace.poll)
            return
        self._blocking += 1
        try:
            block = int(self._pace.block * 1000)
            self._outage.run(lambda: self._read(block, log, at), None)
        finally:
            self._blocking -= 1

    def _read(self, block: int, log: bytes, at: str) -> Any:
        return self._waits.execute_command("XREAD", "COUNT", 1, "BLOCK", block, "STREAMS", log, at)


def _lease(key: str) -> bytes:
    return f"kn:{{flight:{key}}}:lease".encode()


def _log(lease: bytes, token: str) -> bytes:
    return lease.removesuffix(b"lease") + b"log:" + token.encode()
