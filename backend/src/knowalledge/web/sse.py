"""Streamed answers: one flush an event, a sign of life when nothing comes, and an end when the client leaves.

The source of events blocks while it waits, so a greenlet pulls it and the response takes from a short queue: a slow
client slows the source instead of filling memory. One timer a stream, not one an event, keeps the cost of an event
at two switches. Closing the response closes the source, wherever it waits.
"""

from collections.abc import Generator, Iterator
from typing import Any, Protocol

import gevent
from gevent.queue import Full, SimpleQueue

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

    def event(self, event: Event) -> bytes: ...

    def failed(self, error: BaseException) -> bytes:
        """A failure after the first byte; it ends the stream."""
        ...


class _Mark:
    """Something in the queue that is not an event."""


_END, _BEAT = _Mark(), _Mark()


def stream(
    first: Event,
    events: Iterator[Event],
    renderer: Renderer,
    heartbeat_s: float,
    environ: dict[str, Any],
) -> Generator[bytes, None, None]:
    """Render ``first`` and then events as they come; an error after the first byte is rendered too."""
    queue: SimpleQueue[Event | BaseException | _Mark] = SimpleQueue(AHEAD)

    def pull() -> None:
        end: BaseException | _Mark = _END
        try:
            for event in events:
                queue.put(event)
        except ClientGone:
            return
        except Exception as error:  # noqa: BLE001 - a stream that has begun can only end by an event
            end = error
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()
        queue.put(end)

    def beat() -> None:
        try:
            queue.put_nowait(_BEAT)
        except Full:  # the client is slow, not the source
            pass

    puller = gevent.spawn(pull)

    def leave() -> None:
        puller.kill(ClientGone(LEFT), block=False)
        try:
            queue.put_nowait(_END)
        except Full:  # then it is being written to, which fails by itself
            pass

    timer = gevent.get_hub().loop.timer(heartbeat_s, heartbeat_s)
    timer.start(beat)
    try:
        with on_leaving(environ, leave):
            opening = renderer.event(first)
            if opening:
                yield opening
            while True:
                found = queue.get()
                if isinstance(found, _Mark):
                    if found is _END:
                        return
                    yield renderer.heartbeat
                elif isinstance(found, BaseException):
                    yield renderer.failed(found)
                    return
                else:
                    data = renderer.event(found)
                    if data:
                        yield data
    finally:
        timer.stop()
        timer.close()
        if not puller.dead:
            puller.kill(ClientGone(LEFT))
        close = getattr(events, "close", None)
        if close is not None:  # a puller that never ran did not close it
            close()
