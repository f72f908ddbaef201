"""Detects that a client has disconnected while nothing is being sent to it.

Its socket becomes readable with nothing to read. Without this the server would notice at its next write, which for a
whole answer comes after everything has been paid for. A client that closes only its sending side counts as
disconnected, as with most proxies.
"""

import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from struct import unpack
from termios import FIONREAD
from typing import Any

import gevent
from gevent.monkey import get_original

from knowalledge.core.errors import ClientGone

# The environ key of gunicorn's connection. Under other servers it is absent, and a disconnect is noticed at a write.
_SOCKET = "gunicorn.sock"
# The environ key of the function by which a server writes a piece of the body from the hub, while its application
# waits.
HUB_WRITE = "knowalledge.hub_write"
_READ = 1
DISCONNECTED = "the client disconnected"
# Behind bytes that nobody reads yet the event loop cannot see the end: it is looked for this often, in seconds.
LOOK_EVERY_S = 1.0
_GONE = getattr(select, "POLLRDHUP", 0) | select.POLLHUP | select.POLLERR
# The unpatched function: a poll without timeout does not block, and would cost a switch through the hub.
_poll = get_original("select", "poll")


class _Watch:
    """One connection, until its end is seen or asked for no more."""

    __slots__ = ("_callback", "_descriptor", "_watcher")

    def __init__(self, descriptor: int, callback: Callable[[], object]) -> None:
        self._descriptor, self._callback = descriptor, callback
        self._watcher: Any = gevent.get_hub().loop.io(descriptor, _READ)
        self._watcher.start(self._on_readable)

    def _on_readable(self) -> None:
        self._watcher.stop()
        if unpack("i", ioctl(self._descriptor, FIONREAD, b"\0\0\0\0"))[0] == 0:
            self._callback()
            return
        # It has sent its next request early, or a byte too many: it is there, and may still leave.
        self._watcher.close()
        self._watcher = gevent.get_hub().loop.timer(LOOK_EVERY_S, LOOK_EVERY_S)
        self._watcher.start(self._look)

    def _look(self) -> None:
        poller = _poll()
        poller.register(self._descriptor, _GONE)
        if poller.poll(0):
            self._watcher.stop()
            self._callback()

    def end(self) -> None:
        self._watcher.stop()
        self._watcher.close()


def on_disconnect(environ: dict[str, Any], callback: Callable[[], object]) -> Callable[[], None]:
    """Call ``callback`` in the hub, once, if the client disconnects. Returns the function that ends the watch."""
    connection = environ.get(_SOCKET)
    if connection is None:
        return _nothing
    return _Watch(connection.fileno(), callback).end


def _nothing() -> None:
    """No watch to end."""


@contextmanager
def cancel_on_disconnect(environ: dict[str, Any]) -> Iterator[None]:
    """Raises ``ClientGone`` inside the block, at whatever it waits for, when the client disconnects."""
    greenlet: Any = gevent.getcurrent()
    end = on_disconnect(environ, lambda: greenlet.throw(ClientGone(DISCONNECTED)))
    try:
        yield
    finally:
        end()
