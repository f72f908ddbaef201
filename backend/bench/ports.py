"""Free ports for the processes that a benchmark or a test starts."""

import os
import random
import socket
from itertools import count

# Below the ephemeral range of Linux and macOS: no outgoing connection can take a port between the check here and the
# start of the process that will listen.
FIRST, LAST = 20_000, 32_000
WORKERS = 8  # pytest-xdist workers that never try each other's ports

_worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % WORKERS
_steps = count(random.randrange(LAST))  # random: an earlier run may still hold some ports


def free_port() -> int:
    """A port of 127.0.0.1 that is not in use; a port is not repeated within thousands of calls."""
    for step in _steps:
        port = FIRST + step * WORKERS % (LAST - FIRST) + _worker
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the iterator is infinite")
