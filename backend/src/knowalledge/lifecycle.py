"""The process from its first request to its last: background tasks, the drain, the end."""

from collections.abc import Callable, Sequence

import gevent
import structlog

from knowalledge.core.feature import Feature, Task


class Lifecycle:
    """Starts, drains and stops the features of one process."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self._features = tuple(features)
        self._background = Background([task for it in self._features for task in it.tasks])
        self._draining = False

    def start(self) -> None:
        """In the process that serves, once."""
        self._background.start()
        for feature in self._features:
            feature.start()

    def drain(self) -> None:
        """Take no new work: not ready from now on, and every request that waits for quota is sent elsewhere."""
        self._draining = True
        for feature in self._features:
            feature.drain()

    def stop(self) -> None:
        """After the last response: what is on its way out goes out."""
        self._background.stop()
        for feature in reversed(self._features):
            feature.stop()

    def not_ready(self) -> tuple[str, ...]:
        """Why this process should get no more requests."""
        reasons = ("shutting down",) if self._draining else ()
        return (*reasons, *(reason for it in self._features for reason in it.not_ready()))

    def notes(self) -> tuple[str, ...]:
        """What an operator should know though requests are served."""
        return tuple(note for it in self._features for note in it.notes())

    def refresh_metrics(self) -> None:
        """Set every gauge that is computed when it is read."""
        for feature in self._features:
            feature.refresh_metrics()


class Background:
    """Runs each task again and again, in a greenlet of its own. A failed run is logged, and the next one comes."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        self._tasks = tasks
        self._running: list[gevent.Greenlet[..., object]] = []
        self._log = structlog.get_logger()

    def start(self) -> None:
        """Does nothing while they run."""
        if not self._running:
            self._running = [gevent.spawn(self._repeat, it.interval_s, it.run) for it in self._tasks]

    def stop(self) -> None:
        gevent.killall(self._running)
        self._running = []

    def _repeat(self, interval_s: float, run: Callable[[], object]) -> None:
        while True:
            try:
                run()
            except Exception as error:  # noqa: BLE001 - one failure must not end what runs for ever
                self._log.error("background task failed", error=type(error).__name__)
            gevent.sleep(interval_s)
