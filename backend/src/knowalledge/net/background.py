"""What a worker does beside answering: small tasks, each again and again, in greenlets of their own."""

from collections.abc import Callable, Sequence

import gevent
import structlog

Task = tuple[float, Callable[[], object]]  # seconds between two runs, and what to run


class Background:
    """Started by the process that serves, never by one that only forks."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._running: list[gevent.Greenlet[..., object]] = []
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Cheap when it runs already."""
        if not self._running:
            self._running = [gevent.spawn(self._repeat, *task) for task in self._tasks]

    def stop(self) -> None:
        gevent.killall(self._running)
        self._running = []

    def _repeat(self, seconds: float, run: Callable[[], object]) -> None:
        while True:
            try:
                run()
            except Exception as error:  # noqa: BLE001 - one failure must not end what runs for ever
                self._log.error("background task failed", error=type(error).__name__)
            gevent.sleep(seconds)
