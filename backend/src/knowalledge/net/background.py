"""Periodic tasks of a worker, each in a greenlet of its own."""

from collections.abc import Callable, Sequence

import gevent
import structlog

Task = tuple[float, Callable[[], object]]  # seconds between two runs, and the function


class Background:
    """Runs tasks until it is stopped. Start it in the process that serves: greenlets do not survive a fork."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._running: list[gevent.Greenlet[..., object]] = []
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Start every task; does nothing if they run already."""
        if not self._running:
            self._running = [gevent.spawn(self._repeat, *task) for task in self._tasks]

    def stop(self) -> None:
        """Kill every task, also in the middle of a run."""
        gevent.killall(self._running)
        self._running = []

    def _repeat(self, interval_s: float, run: Callable[[], object]) -> None:
        while True:
            try:
                run()
            except Exception as error:  # noqa: BLE001 - one failed run must not end the task
                self._log.error("background task failed", error=type(error).__name__)
            gevent.sleep(interval_s)
