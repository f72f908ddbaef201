"""Streamed answers: one flush an event, a sign of life when nothing comes, and an end when the client leaves.

The source of events blocks while it waits, so a greenlet pulls it and the response takes from a short line: a slow
client slows the source instead of filling memory. One timer a stream, not one an event, keeps the cost of an event
at two switches. Closing the response closes the source, wherever it waits.
"""

from collections import deque
from collections.abc import Iterator
from typing import Any, Generic, Protocol, TypeVar

import gevent
from gevent.hub import Waiter

from knowalledge.domain.errors import ClientGone
from knowalledge.domain.model import Event
from knowalledge.web.presence import LEFT, on_leaving

# Events that may wait for a slow client.
AHEAD = 4
CONTENT_TYPE = "text/event-stream; charset=utf-8"
# A comment: every client skips it, and every proxy on the way sees that the stream lives.
COMMENT = b": waiting\n\n"


class Renderer(Protocol):
    """A dialect's form of a stream. An event that the dialect does not know renders as nothing."""

    @property
    def content_type(self) -> str: ...

    @property
    def heartbeat(self) -> bytes:
        """What a silent stream says so that nobody on the way gives it up."""
        ...

    def opens(self, event: Event) -> bool:
        """Whether the answer begins with this event. Until it has begun a failure still has a status."""
        ...

    def event(self, event: Event) -> bytes: ...

    def failed(self, error: BaseException) -> bytes:
        """A failure after the first byte; it ends the stream."""
        ...


class _Mark:
    """Something in the queue that is not an event."""


_END, _BEAT, _LEFT = _Mark(), _Mark(), _Mark()


T = TypeVar("T")


class _Line(Generic[T]):
    """From one greenlet that gives to one that takes. gevent's queues serve any number of both, for twice the cost."""

    def __init__(self, room: int) -> None:
        self._room = room
        self._items: deque[T] = deque()
        self._taker: Waiter[None] | None = None
        self._giver: Waiter[None] | None = None
        self._soon = gevent.get_hub().loop.run_callback

    def __len__(self) -> int:
        return len(self._items)

    @property
    def full(self) -> bool:
        return len(self._items) >= self._room

    def give(self, item: T) -> None:
        """Waits while the line is full."""
        while self.full:
            self._giver = Waiter()
            self._giver.get()
        self.add(item)

    def add(self, item: T) -> None:
        """Without waiting; also from the hub."""
        self._items.append(item)
        taker = self._taker
        if taker is not None:
            # Not at once: what the giver has at hand comes along.
            self._taker = None
            self._soon(taker.switch, None)

    def take(self) -> T:
        """Waits while the line is empty."""
        while not self._items:
            self._taker = Waiter()
            self._taker.get()
        giver = self._giver
        if giver is not None:
            self._giver = None
            self._soon(giver.switch, None)
        return self._items.popleft()


class Stream:
    """The body of a streamed answer: an iterator that a WSGI server closes, begun or not."""

    def __init__(
        self, events: Iterator[Event], renderer: Renderer, heartbeat_s: float, environ: dict[str, Any]
    ) -> None:
        self._events = events
        self._renderer = renderer
        self._line: _Line[Event | BaseException | _Mark] = _Line(AHEAD)
        self._first: Event | _Mark | None = None
        self._timer: Any = gevent.get_hub().loop.timer(heartbeat_s, heartbeat_s)
        self._timer.start(self._beat)
        self._over = False
        self._struck = False
        self._puller = gevent.spawn(self._pull)
        self._unwatch = on_leaving(environ, self._leave)

    def opening(self) -> Event | None:
        """Wait for the event that the answer begins with, but no longer than a stream may be silent: then None.

        Raises what the source raised, ``ClientGone`` if the client left.
        """
        try:
            while True:
                found = self._line.take()
                if isinstance(found, BaseException):
                    raise found
                if found is _LEFT:
                    raise ClientGone(LEFT)
                if isinstance(found, _Mark):
                    self._first = found
                    return None
                if self._renderer.opens(found):
                    self._first = found
                    return found
        except BaseException:  # nobody will iterate, so nobody else would end the source
            self.close()
            raise

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> bytes:
        data, first = b"", self._first
        if first is not None:
            self._first = None
            data = self._rendered(first)
        while not data:
            if self._ended():
                raise StopIteration
            data = self._rendered(self._line.take())
        # What has come meanwhile goes out with it: one write, where the source is faster than the client.
        while self._line and not self._ended():
            data += self._rendered(self._line.take())
        return data

    def _ended(self) -> bool:
        return self._over

    def close(self) -> None:
        """End the source, wherever it waits, and wait until it has ended. May be called again."""
        self._over = True
        self._unwatch()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        self._end_source()
        self._puller.join()
        self._close_events()  # a puller that never ran did not

    def _end_source(self) -> None:
        """Once: a second blow would strike it while it gives back what it holds."""
        if not self._struck and not self._puller.dead:
            self._struck = True
            self._puller.kill(ClientGone(LEFT), block=False)

    def _rendered(self, found: Event | BaseException | _Mark) -> bytes:
        if isinstance(found, _Mark):
            if found is _BEAT:
                return self._renderer.heartbeat
            self._over = True
            return b""
        if isinstance(found, BaseException):
            self._over = True
            return self._renderer.failed(found)
        return self._renderer.event(found)

    def _pull(self) -> None:
        end: BaseException | _Mark = _END
        try:
            try:
                for event in self._events:
                    if self._struck:  # and something on the way has taken the blow
                        return
                    self._line.give(event)
            except ClientGone:
                raise
            except Exception as error:  # noqa: BLE001 - a stream that has begun can only end by an event
                end = error
            if not self._struck:
                self._line.give(end)
        except ClientGone:
            pass  # nobody is left to tell
        finally:
            self._close_events()

    def _close_events(self) -> None:
        close = getattr(self._events, "close", None)
        if close is not None:
            close()

    def _beat(self) -> None:
        if not self._line.full:  # else the client is slow, not the source
            self._line.add(_BEAT)

    def _leave(self) -> None:
        self._end_source()
        self._line.add(_LEFT)
