"""Ports of this machine for the processes that a benchmark or a test starts."""

import os
import random
import socket
from itertools import count

# Below the range from which Linux and macOS take the ports of outgoing connections: none of those can take the port
# between the look here and the start of the process that will listen.
FIRST, LAST = 20_000, 32_000
LANES = 8  # workers of pytest-xdist that never try each other's ports

_lane = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")) % LANES
_steps = count(random.randrange(LAST))  # another begin each time: a run before this one may still hold some


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on; no port twice before thousands of others."""
    for step in _steps:
        port = FIRST + step * LANES % (LAST - FIRST) + _lane
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("unreachable: the steps have no end")
