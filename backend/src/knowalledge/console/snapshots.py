"""What the operator's page shows, read once a second at most, however many pages are open."""

from collections.abc import Callable, Generator

import gevent
from gevent.lock import BoundedSemaphore

from knowalledge.core.clock import Clock
from knowalledge.core.errors import Unavailable

# Seconds between two snapshots.
INTERVAL_S = 1.0
# Open pages of one worker; more are refused.
MAX_PAGES = 500


class Snapshots:
    """A server-sent event with the newest snapshot, and streams of them."""

    def __init__(
        self, read: Callable[[], bytes], clock: Clock, sleep: Callable[[float], object] = gevent.sleep
    ) -> None:
        """``read`` gives a snapshot as JSON; it may wait for Redis."""
        self._read, self._clock, self._sleep = read, clock, sleep
        self._reading = BoundedSemaphore()
        self._event, self._at = b"", float("-inf")
        self._pages, self._closed = 0, False

    def newest(self) -> bytes:
        """The newest snapshot as an event. Those who ask while one is read wait for it and share it."""
        with self._reading:
            if self._clock.monotonic() - self._at >= INTERVAL_S:
                self._event = b"event: snapshot\ndata: " + self._read() + b"\n\n"
                self._at = self._clock.monotonic()
            return self._event

    def stream(self) -> Generator[bytes, None, None]:
        """An event a second, until the page or this process goes. Raises ``Unavailable`` if too many pages are open."""
        if self._pages >= MAX_PAGES:
            raise Unavailable("too many consoles are open")
        return self._events()

    def _events(self) -> Generator[bytes, None, None]:
        self._pages += 1  # here, so that a response that is never begun takes no place
        try:
            while not self._closed:
                yield self.newest()
                self._sleep(INTERVAL_S)
        finally:
            self._pages -= 1

    def close(self) -> None:
        """End every stream within a second."""
        self._closed = True
