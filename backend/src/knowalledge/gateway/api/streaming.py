"""The body of a streamed answer: a write for each batch of events, heartbeats in silence, an end on disconnect.

The source of events blocks while it waits. The response waits in it itself, so a batch costs one switch of greenlets,
and a slow client slows the source. What must happen meanwhile happens in the hub: a timer writes heartbeats, and a
disconnect ends the wait. A second greenlet (the puller) waits in the source in the response's place where the response
must be able to go on without it: before its first byte, and under a server that lets only the response write.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import gevent

from knowalledge.core.errors import ClientGone, release_frames
from knowalledge.gateway.domain.events import Event
from knowalledge.net.presence import DISCONNECTED, HUB_WRITE, on_disconnect

CONTENT_TYPE = "text/event-stream; charset=utf-8"
# A comment of an event stream: clients skip it, and proxies see that the stream lives.
KEEP_ALIVE = b": waiting\n\n"

Source = Generator[Sequence[Event], None, None]


class StreamRenderer(Protocol):
    """A dialect's form of a stream. Events that the dialect has no form for render as nothing."""

    @property
    def content_type(self) -> str: ...

    @property
    def heartbeat(self) -> bytes:
        """What a silent stream sends, so that neither client nor proxy gives it up."""
        ...

    def opens(self, event: Event) -> bool:
        """Whether the answer begins with this event; a failure before it has an HTTP status of its own."""
        ...

    def render(self, event: Event) -> bytes: ...

    def render_error(self, error: BaseException) -> bytes:
        """A failure after the first byte; it ends the stream."""
        ...


class StreamedBody:
    """An iterator over the bytes of a response, which the WSGI server closes whether or not it was begun."""

    def __init__(
        self, events: Source, renderer: StreamRenderer, heartbeat_s: float, environ: dict[str, Any]
    ) -> None:
        """``events`` yields those that come together; ``heartbeat_s`` is the longest silence in seconds."""
        self._events = events
        self._renderer = renderer
        self._heartbeat_s = heartbeat_s
        self._hub_write: Callable[[bytes], None] | None = environ.get(HUB_WRITE)
        self._prefix = b""  # sent before any event
        self._pending: Sequence[Event] = ()
        self._waiting: Any = None  # the response's greenlet, while it waits in the source itself ...
        self._puller: gevent.Greenlet[..., Any] | None = None  # ... or the greenlet that does so in its place
        self._begun = False  # a byte is out
        self._ended = False
        self._interrupted = False
        self._timer: Any = None
        self._unwatch = on_disconnect(environ, self._interrupt)

    def open(self) -> Event | None:
        """Wait for the event that the answer begins with; None if there is only silence, or no event at all.

        Raises what the source raises, and ``ClientGone`` if the client disconnects.
        """
        try:
            while not self._ended:
                result = self._pull()
                if isinstance(result, BaseException):
                    raise result
                if result is None:
                    self._prefix = self._renderer.heartbeat
                    break
                for index, event in enumerate(result):
                    if self._renderer.opens(event):
                        self._pending = result[index:]
                        return event
        except BaseException:  # the server never gets this body, so it would not close it
            self.close()
            raise
        return None

    def __iter__(self) -> "StreamedBody":
        return self

    def __next__(self) -> bytes:
        data, self._prefix = self._prefix, b""
        events, self._pending = self._pending, ()
        render = self._renderer.render
        while True:
            for event in events:
                data += render(event)
            if data:
                self._begun = True
                return data
            if self._ended:
                raise StopIteration
            pulls = self._hub_write is None or self._puller is not None or not self._begun
            result = self._pull() if pulls else self._wait_in_source()
            if result is None:
                self._begun = True
                return self._renderer.heartbeat
            if isinstance(result, BaseException):
                return self._render_error(result)
            events = result

    def _render_error(self, error: BaseException) -> bytes:
        self._ended = True
        if isinstance(error, ClientGone):
            raise StopIteration  # no client is left to read it
        if isinstance(error, Exception):  # the status is out, so only an event can tell
            release_frames(error)
            return self._renderer.render_error(error)
        raise error

    def close(self) -> None:
        """End the source, wherever it waits, and wait until it has ended. May be called more than once."""
        self._ended = True
        self._unwatch()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        if self._puller is not None:
            self._interrupt()
            self._puller.join()
            self._puller = None
        self._events.close()

    def _next_events(self) -> Sequence[Event] | BaseException:
        """The source's next events, or how it failed."""
        if self._interrupted:
            return ClientGone(DISCONNECTED)
        try:
            events = next(self._events)
        except StopIteration:
            self._ended = True
            return ()
        except BaseException as error:  # noqa: BLE001 - the response renders or raises it
            return error
        # A source that swallowed the interrupt ends here.
        return ClientGone(DISCONNECTED) if self._interrupted else events

    def _wait_in_source(self) -> Sequence[Event] | BaseException:
        if self._timer is None:
            self._timer = gevent.get_hub().loop.timer(self._heartbeat_s, self._heartbeat_s)
            self._timer.start(self._write_heartbeat)
        self._waiting = gevent.getcurrent()
        try:
            return self._next_events()
        finally:
            self._waiting = None

    def _pull(self) -> Sequence[Event] | BaseException | None:
        """The puller's result; None if there is none within ``heartbeat_s``."""
        puller = self._puller
        if puller is None:
            puller = self._puller = gevent.spawn(self._next_events)
        puller.join(self._heartbeat_s)
        if not puller.dead:
            return None
        self._puller = None
        return puller.value if puller.exception is None else puller.exception  # interrupted before it ran

    def _write_heartbeat(self) -> None:
        """Runs in the hub. Outside of the wait it is the client that is slow, not the source."""
        if self._waiting is not None and self._hub_write is not None:
            self._hub_write(self._renderer.heartbeat)

    def _interrupt(self) -> None:
        """Once, and also in the hub: a second time would hit the source while it settles what it holds."""
        if self._interrupted:
            return
        self._interrupted = True
        if self._puller is not None:
            self._puller.kill(ClientGone(DISCONNECTED), block=False)
        elif self._waiting is not None:
            self._waiting.throw(ClientGone(DISCONNECTED))
