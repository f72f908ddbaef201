"""Server-sent events: one flush an event, a comment when nothing comes, and an end when the client leaves.

The source of events blocks while it waits, so a greenlet pulls it and the response takes from a queue; the queue is
small, so a slow client slows the source instead of filling memory. Closing the response closes the source.
"""

from collections.abc import Callable, Generator, Iterator

import gevent
from gevent.queue import Channel, Empty

from knowalledge.domain.errors import KnowalledgeError
from knowalledge.domain.model import Event

HEARTBEAT = b": waiting\n\n"


class _End:
    """The source is exhausted."""


def stream(
    first: Event,
    events: Iterator[Event],
    render: Callable[[Event], bytes],
    failed: Callable[[BaseException], bytes],
    heartbeat_s: float,
) -> Generator[bytes, None, None]:
    """Render ``first`` and then events as they come; an error after the first byte is an event too."""
    channel: Channel[object] = Channel()

    def pull() -> None:
        try:
            for event in events:
                channel.put(event)
        except KnowalledgeError as error:
            channel.put(error)
        except gevent.GreenletExit:
            raise
        except Exception as error:  # noqa: BLE001 - a stream that has begun can only end by an event
            channel.put(error)
        else:
            channel.put(_End)
        finally:
            close = getattr(events, "close", None)
            if close is not None:
                close()

    puller = gevent.spawn(pull)
    try:
        yield render(first)
        while True:
            try:
                found = channel.get(timeout=heartbeat_s)
            except Empty:
                yield HEARTBEAT
                continue
            if found is _End:
                return
            if isinstance(found, BaseException):
                yield failed(found)
                return
            yield render(found)  # type: ignore[arg-type]
    finally:
        puller.kill(block=True)
