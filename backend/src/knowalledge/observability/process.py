"""What a worker takes of its machine, and how promptly its event loop turns."""

import os
from pathlib import Path

from knowalledge.core.clock import Clock
from knowalledge.core.metrics import Metric, Metrics

HUB_LAG = Metric(
    "knowalledge_hub_lag_seconds",
    "histogram",
    (),
    "How late the event loop of a worker was with a timer, in seconds; measured twice a second.",
)
MEMORY = Metric(
    "knowalledge_workers_memory_bytes",
    "gauge",
    (),
    "Resident memory of the workers of this replica.",
    sum_over_workers=True,
)
OPEN_FILES = Metric(
    "knowalledge_workers_open_files",
    "gauge",
    (),
    "Files and sockets that the workers of this replica have open.",
    sum_over_workers=True,
)
# Seconds between two measurements.
INTERVAL_S = 0.5
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessMetrics:
    """Measures the process that calls ``measure``; where there is no ``/proc``, the hub's lag only."""

    def __init__(self, metrics: Metrics, clock: Clock, proc: Path = Path("/proc/self")) -> None:
        self._lag = metrics.family(HUB_LAG)
        self._memory, self._files = metrics.family(MEMORY), metrics.family(OPEN_FILES)
        self._clock, self._proc = clock, proc
        self._due: float | None = None

    def measure(self) -> None:
        """Called ``INTERVAL_S`` after it returned, but for the hub's lag."""
        if self._due is not None:
            self._lag[()].observe(max(0.0, self._clock.monotonic() - self._due))
        try:
            resident_pages = int((self._proc / "statm").read_bytes().split()[1])
            open_files = len(os.listdir(self._proc / "fd"))
        except OSError:
            pass
        else:
            self._memory[()].set(resident_pages * _PAGE_BYTES)
            self._files[()].set(open_files)
        self._due = self._clock.monotonic() + INTERVAL_S
