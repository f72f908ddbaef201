"""The process from its first request to its last: background tasks, the drain, the end."""

from collections.abc import Sequence

import gevent

from knowalledge.core.feature import Feature
from knowalledge.core.supervision import Supervisor


class Lifecycle:
    """Starts, drains and stops the features of one process."""

    def __init__(self, features: Sequence[Feature], supervisor: Supervisor) -> None:
        """``supervisor`` runs the features' tasks."""
        self._features = tuple(features)
        self._supervisor = supervisor
        self._running: list[gevent.Greenlet[..., None]] = []
        self._draining = False

    def start(self) -> None:
        """In the process that serves, once."""
        tasks = (task for it in self._features for task in it.tasks)
        self._running = [self._supervisor.repeat(it.name, it.run, it.interval_s) for it in tasks]
        for feature in self._features:
            feature.start()

    def drain(self) -> None:
        """Take no new work: not ready from now on, and every request that waits for quota is sent elsewhere."""
        self._draining = True
        for feature in self._features:
            feature.drain()

    def stop(self) -> None:
        """After the last response: what is on its way out goes out."""
        self._supervisor.stop(*self._running)
        self._running = []
        for feature in reversed(self._features):
            feature.stop()

    def not_alive(self) -> tuple[str, ...]:
        """Why this process should be replaced: the work beside requests that cannot be kept alive."""
        return tuple(f"{name} cannot be kept alive" for name in self._supervisor.failing())

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
