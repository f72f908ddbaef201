"""Lines on standard error that never block, never fail and never grow: what cannot be written is counted.

A pipe that nobody reads, a full disk or a closed stream must not stop a worker or cost a request.
"""

import os
import select
import socket
import stat
from collections.abc import Callable

from gevent.monkey import get_original

# A pipe takes this much at once or not at all (POSIX: at least 512; Linux: 4096), so no line is ever cut.
MAX_LINE = 4096
_SocketClass: type[socket.socket] = get_original("socket", "socket")


class LineWriter:
    """Writes whole lines to a file descriptor. ``dropped`` counts those that could not be written."""

    def __init__(self, descriptor: int) -> None:
        self.dropped = 0
        self._descriptor = descriptor
        self._write = self._open()

    def __call__(self, line: bytes) -> None:
        """Write a line, newline included; drop it if there is no room for it now."""
        try:
            if self._write(line) == len(line):
                return
        except OSError:
            pass  # full, closed or without a reader
        self.dropped += 1

    def reopen(self) -> None:
        """After a fork: a child writes through a description of its own."""
        self._write = self._open()

    def _open(self) -> Callable[[bytes], int]:
        descriptor = self._descriptor
        try:
            mode = os.fstat(descriptor).st_mode
        except OSError:  # closed
            return lambda _: 0
        if stat.S_ISSOCK(mode):  # as under systemd
            try:
                connection = _SocketClass(fileno=os.dup(descriptor))
            except OSError:
                return lambda line: os.write(descriptor, line)
            return lambda line: connection.send(line, socket.MSG_DONTWAIT)
        if not stat.S_ISREG(mode):
            # A description of our own: O_NONBLOCK on the shared one would surprise its other users.
            try:
                own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            except OSError:  # no /proc, or no permission
                return lambda line: _write_if_ready(descriptor, line)
            return lambda line: os.write(own, line)
        return lambda line: os.write(descriptor, line)


def _write_if_ready(descriptor: int, line: bytes) -> int:
    poller = get_original("select", "poll")()
    poller.register(descriptor, select.POLLOUT)
    return os.write(descriptor, line) if poller.poll(0) else 0
