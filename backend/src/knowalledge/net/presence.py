"""Detects that a client has disconnected while nothing is being sent to it.

Its socket becomes readable with nothing to read. Without this the server would notice at its next write, which for a
whole answer comes after everything has been paid for. A client that closes only its sending side counts as
disconnected, as with most proxies.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from struct import unpack
from termios import FIONREAD
from typing import Any

import gevent

from knowalledge.core.errors import ClientGone

# The environ key of gunicorn's connection. Under other servers it is absent, and a disconnect is noticed at a write.
_SOCKET = "gunicorn.sock"
_READ = 1
DISCONNECTED = "the client disconnected"


def on_disconnect(environ: dict[str, Any], callback: Callable[[], object]) -> Callable[[], None]:
    """Call ``callback`` in the hub, once, if the client disconnects. Returns the function that ends the watch."""
    connection = environ.get(_SOCKET)
    if connection is None:
        return _nothing
    descriptor = connection.fileno()
    watcher = gevent.get_hub().loop.io(descriptor, _READ)

    def on_readable() -> None:
        watcher.stop()
        # With bytes to read the client is there: it has sent its next request early.
        if unpack("i", ioctl(descriptor, FIONREAD, b"\0\0\0\0"))[0] == 0:
            callback()

    def end() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(on_readable)
    return end


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
