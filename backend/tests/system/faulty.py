"""``python -m tests.system.faulty CONFIG REDIS``: an error in the first run of everything that works in the background.

A program of its own, because gevent's patch must come before any other import. REDIS is the process id of the Redis
that CONFIG names. Prints what became of the work, as JSON.
"""

import knowalledge.patched  # noqa: F401, I001

import json
import os
import signal
import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import gevent

from knowalledge import app as wiring
from knowalledge import infrastructure
from knowalledge.config.settings import Settings
from knowalledge.core.context import Priority
from knowalledge.core.supervision import Supervisor
from knowalledge.quota import redis as quota_redis
from knowalledge.quota.domain.window import TokenCost
from knowalledge.quota.feature import QuotaFeature
from knowalledge.quota.ports import Decision, Granted, Queued, QuotaStore, ReservationRequest


class Odd(Exception):
    """An error that nothing in the program knows."""


injected: Counter[str] = Counter()
succeeded: Counter[str] = Counter()


class FaultySupervisor(Supervisor):
    """Raises in the first run of each name."""

    def _spawn(self, name: str, run: Callable[[], object], *args: Any, **options: Any) -> Any:
        def faulty() -> None:
            if not injected[name]:
                injected[name] += 1
                raise Odd
            run()
            succeeded[name] += 1

        return super()._spawn(name, faulty, *args, **options)


def main(config: str, redis: int) -> None:
    supervisors: list[FaultySupervisor] = []
    stores: list[QuotaStore] = []
    application: Any = wiring  # their imports are not their exports
    base: Any = infrastructure
    build = application.quotas.build

    def recorded(*args: Any) -> QuotaFeature:
        feature: QuotaFeature = build(*args)
        stores.append(feature.store)
        return feature

    def supervisor(*args: Any) -> FaultySupervisor:
        supervisors.append(FaultySupervisor(*args))
        return supervisors[-1]

    base.Supervisor, application.quotas.build = supervisor, recorded
    life = wiring.create_app(Settings.load(environ={}, config=config)).extensions["knowalledge"]
    life.start()
    store: Any = stores[0]

    def reserve(name: str, patience_s: float = 0.0) -> Decision:
        return stores[0].reserve(
            "t", ReservationRequest(name, TokenCost(1, 0), Priority.HIGH, "", patience_s)
        )

    def wait_for(true: Callable[[], object], what: str) -> None:
        with gevent.Timeout(20, RuntimeError(f"never: {what}; {succeeded}")):
            while not true():
                gevent.sleep(0.02)

    def wait_for_turn(name: str, kind: str) -> None:
        """A request waits until the window moves on."""
        decision = reserve(name, patience_s=20.0)
        while isinstance(decision, Queued):
            granted = decision.ticket.wait(20)
            decision = granted if isinstance(granted, Granted) else reserve(name + "'", patience_s=20.0)
        assert isinstance(decision, Granted), decision
        store.release(decision.reservation)
        wait_for(lambda: succeeded[kind], kind)

    wait_for(lambda: store._shared._redis_clock[0], "a heartbeat")
    first = reserve("first")
    assert isinstance(first, Granted)
    quota_redis._Target.is_late = lambda *_: True  # type: ignore[method-assign]
    wait_for_turn("waits", "quota.pump")
    wait_for_turn("is renewed", "quota.renew")
    store.settle(first.reservation, TokenCost(1, 0))
    wait_for(lambda: succeeded["quota.write"], "write")
    interrupted = gevent.spawn(reserve, "interrupted")
    gevent.sleep(0)
    interrupted.kill()
    wait_for(lambda: succeeded["quota.give_up"], "give up")
    os.kill(redis, signal.SIGSTOP)
    reserve("alone")
    assert store.degraded
    wait_for_turn("waits alone", "quota.local_pump")
    os.kill(redis, signal.SIGCONT)
    wait_for(lambda: not store.degraded, "rejoin")
    running = supervisors[0].names()
    wait_for(lambda: all(succeeded[name] for name in running if name != "quota.listen"), "all")
    # Listening is one run for ever: a grant of another replica's making must be heard.
    gevent.sleep(0.5)
    print(
        json.dumps(
            {
                "injected": sorted(injected),
                "running": running,
                "failing": supervisors[0].failing(),
                "reserved": [it.held for it in store.window_status("t")],
            }
        ),
        flush=True,
    )
    life.stop()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
