"""Noticing that a client has hung up while nothing is written to it.

Its socket becomes readable with nothing to read. Without this a server learns of it only when it writes, which for a
whole answer is when all is paid for. A client that closes only its sending side counts as gone too, as with most
proxies.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from struct import unpack
from termios import FIONREAD
from typing import Any

import gevent

from knowalledge.core.errors import ClientGone

# Where gunicorn keeps the connection; absent under other servers, which then notice later.
_SOCKET = "gunicorn.sock"
_READ = 1
LEFT = "the client left"


def on_leaving(environ: dict[str, Any], act: Callable[[], object]) -> Callable[[], None]:
    """Call ``act`` from the hub, once, if the client hangs up; gives the function that ends the watch."""
    connection = environ.get(_SOCKET)
    if connection is None:
        return _nothing
    number = connection.fileno()
    watcher = gevent.get_hub().loop.io(number, _READ)

    def readable() -> None:
        watcher.stop()
        if unpack("i", ioctl(number, FIONREAD, b"\0\0\0\0"))[0] == 0:  # else it sends its next request early
            act()

    def end() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(readable)
    return end


def _nothing() -> None:
    """There is nothing to end."""


@contextmanager
def while_present(environ: dict[str, Any]) -> Iterator[None]:
    """The block, in which ``ClientGone`` is raised, wherever it waits, when the client hangs up."""
    waiting: Any = gevent.getcurrent()
    end = on_leaving(environ, lambda: waiting.throw(ClientGone(LEFT)))
    try:
        yield
    finally:
        end()
