"""Streamed answers: a write for what has come, a sign of life when nothing comes, and an end when the client leaves.

The source of events blocks while it waits. The response itself waits in it, so what comes costs one switch, and a slow
client slows the source. What has to happen meanwhile happens in the hub: a timer gives signs of life, and a client that
hangs up ends the wait. Only while no byte is out, and under a server that lets nobody write but the response, a second
greenlet waits in the source, so that the response can begin, or say that it lives, without it.
"""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import gevent

from knowalledge.core.errors import ClientGone
from knowalledge.gateway.domain.events import Event
from knowalledge.net.presence import DISCONNECTED, on_disconnect

CONTENT_TYPE = "text/event-stream; charset=utf-8"
# A comment: every client skips it, and every proxy on the way sees that the stream lives.
COMMENT = b": waiting\n\n"
# Where a server keeps a function that writes a piece of the body from the hub, while its application is silent.
ASIDE = "knowalledge.aside"

Source = Generator[Sequence[Event], None, None]


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


class Stream:
    """The body of a streamed answer: an iterator that a WSGI server closes, begun or not."""

    def __init__(
        self, events: Source, renderer: Renderer, heartbeat_s: float, environ: dict[str, Any]
    ) -> None:
        """``events`` gives those that have come together."""
        self._events = events
        self._renderer = renderer
        self._silence_s = heartbeat_s
        self._aside: Callable[[bytes], None] | None = environ.get(ASIDE)
        self._came: Sequence[Event] = ()
        self._said = b""  # before any event
        self._waiting: Any = None  # the response, while it waits in the source itself ...
        self._puller: gevent.Greenlet[..., Any] | None = None  # ... or who does so in its place
        self._begun = self._over = self._struck = False
        self._timer: Any = None
        self._unwatch = on_disconnect(environ, self._leave)

    def opening(self) -> Event | None:
        """Wait for the event that the answer begins with, but no longer than a stream may be silent: then None.

        Raises what the source raised, ``ClientGone`` if the client left.
        """
        try:
            while not self._over:
                found = self._awaited()
                if isinstance(found, BaseException):
                    raise found
                if found is None:
                    self._said = self._renderer.heartbeat
                    break
                for index, event in enumerate(found):
                    if self._renderer.opens(event):
                        self._came = found[index:]
                        return event
        except BaseException:  # nobody will iterate, so nobody else would end the source
            self.close()
            raise
        return None

    def __iter__(self) -> "Stream":
        return self

    def __next__(self) -> bytes:
        data, self._said = self._said, b""
        came, self._came = self._came, ()
        render = self._renderer.event
        while True:
            for event in came:
                data += render(event)
            if data:
                self._begun = True
                return data
            if self._over:
                raise StopIteration
            alone = self._aside is None or self._puller is not None or not self._begun
            found = self._awaited() if alone else self._pulled()
            if found is None:
                self._begun = True
                return self._renderer.heartbeat
            if isinstance(found, BaseException):
                return self._failed(found)
            came = found

    def _failed(self, error: BaseException) -> bytes:
        self._over = True
        if isinstance(error, ClientGone):
            raise StopIteration  # nobody is left to tell
        if isinstance(error, Exception):  # a stream that has begun can only end by an event
            return self._renderer.failed(error)
        raise error

    def close(self) -> None:
        """End the source, wherever it waits, and wait until it has ended. May be called again."""
        self._over = True
        self._unwatch()
        if self._timer is not None:
            self._timer.stop()
            self._timer.close()
            self._timer = None
        if self._puller is not None:
            self._strike()
            self._puller.join()
            self._puller = None
        self._events.close()

    def _step(self) -> Sequence[Event] | BaseException:
        """What comes next from the source, or how it failed."""
        if self._struck:
            return ClientGone(DISCONNECTED)
        try:
            found = next(self._events)
        except StopIteration:
            self._over = True
            return ()
        except BaseException as error:  # noqa: BLE001 - the response tells of it, or raises it
            return error
        # If something on the way has taken the blow, it ends here.
        return ClientGone(DISCONNECTED) if self._struck else found

    def _pulled(self) -> Sequence[Event] | BaseException:
        if self._timer is None:
            self._timer = gevent.get_hub().loop.timer(self._silence_s, self._silence_s)
            self._timer.start(self._beat)
        self._waiting = gevent.getcurrent()
        try:
            return self._step()
        finally:
            self._waiting = None

    def _awaited(self) -> Sequence[Event] | BaseException | None:
        """What another greenlet pulls; None if nothing came for as long as a stream may be silent."""
        puller = self._puller
        if puller is None:
            puller = self._puller = gevent.spawn(self._step)
        puller.join(self._silence_s)
        if not puller.dead:
            return None
        self._puller = None
        return puller.value if puller.exception is None else puller.exception  # by a blow before it ran

    def _beat(self) -> None:
        """In the hub."""
        if self._waiting is not None and self._aside is not None:  # else the client is slow, not the source
            self._aside(self._renderer.heartbeat)

    def _leave(self) -> None:
        """In the hub: the client has hung up."""
        self._strike()

    def _strike(self) -> None:
        """Once: a second blow would strike the source while it gives back what it holds."""
        if self._struck:
            return
        self._struck = True
        if self._puller is not None:
            self._puller.kill(ClientGone(DISCONNECTED), block=False)
        elif self._waiting is not None:
            self._waiting.throw(ClientGone(DISCONNECTED))
