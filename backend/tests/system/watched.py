"""``python -m tests.system.watched CONFIG BIND LOG [SLOW]``: a gateway whose hub is watched from inside.

Each time a greenlet gives way, what it did since it was given control is measured: time on the CPU, and time asleep in
the kernel. Asleep is all time but that on the CPU and that in the queue for a CPU, and none if it never gave the CPU up
by itself, so neither a busy machine nor a busy host of virtual machines is taken for a blocking call.
Whatever held the hub for longer than ``LIMIT_S`` goes to LOG, with where it was. SLOW makes an event of each stream
block for that many seconds, to show that the watch works.
"""

from gevent import monkey

monkey.patch_all()

import os  # noqa: E402
import resource  # noqa: E402
import sys  # noqa: E402
import time  # noqa: E402
import traceback  # noqa: E402
from typing import Any  # noqa: E402

import gevent  # noqa: E402
import greenlet  # noqa: E402

from knowalledge.config.settings import Settings  # noqa: E402
from knowalledge.gateway.api.native.stream import NativeStream  # noqa: E402
from knowalledge.gateway.domain.events import Done  # noqa: E402
from knowalledge.server import Server  # noqa: E402

LIMIT_S = 0.05


class Watch:
    """The time since the last switch, by what became of it."""

    def __init__(self, log: str) -> None:
        self._log = os.open(log, os.O_CREAT | os.O_APPEND | os.O_WRONLY)
        self._process = 0
        self._source = -1
        self._last = (0.0, 0.0, 0.0)
        self._waits = 0

    def __call__(self, event: str, greenlets: Any) -> None:
        if os.getpid() != self._process:  # gunicorn has forked
            self._process = os.getpid()
            self._source = os.open("/proc/thread-self/schedstat", os.O_RDONLY)
        ran, queued = os.pread(self._source, 64, 0).split()[:2]
        now = (time.perf_counter(), int(ran) / 1e9, int(queued) / 1e9)
        wall, cpu, queued_s = (new - old for new, old in zip(now, self._last, strict=True))
        waits = resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
        asleep = wall - cpu - queued_s if waits > self._waits else 0.0
        self._last, self._waits = now, waits
        origin, _ = greenlets
        # The hub itself sleeps for a living.
        if origin is gevent.get_hub() or max(cpu, asleep) < LIMIT_S:
            return
        where = "".join(traceback.format_stack(origin.gr_frame or sys._getframe(1), limit=-8))
        os.write(self._log, f"{cpu:.3f} s on the CPU, {asleep:.3f} s asleep\n{where}\n".encode())


def main(config: str, bind: str, log: str, slow: str = "") -> None:
    if slow:
        render: Any = NativeStream.render
        asleep = monkey.get_original("time", "sleep")

        def event(self: Any, found: Any) -> Any:
            asleep(float(slow) if isinstance(found, Done) else 0)
            return render(self, found)

        NativeStream.render = event  # type: ignore[assignment, method-assign]
    greenlet.settrace(Watch(log))
    Server(Settings.load(config=config), bind, 1).run()


main(*sys.argv[1:])
