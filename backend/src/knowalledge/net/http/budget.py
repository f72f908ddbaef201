"""The memory that large responses may take together, whoever sends them."""

from gevent.lock import BoundedSemaphore

from knowalledge.core.errors import ProviderTimeout

UNIT = 1024 * 1024


class ResponseBudget:
    """Grants bytes in the order in which they are asked for; who waits does not read, so its provider waits too."""

    def __init__(self, capacity: int) -> None:
        """``capacity`` in bytes, rounded to ``UNIT``."""
        self._capacity = capacity // UNIT
        self._free = BoundedSemaphore(self._capacity)
        self._turn = BoundedSemaphore(1)

    def acquire(self, size: int, timeout: float) -> int:
        """Wait for ``size`` bytes, at most the capacity. Returns what to release. Raises ``ProviderTimeout``."""
        units, held = min(self._capacity, -(-size // UNIT)), 0
        # In turn: two that had a part each would wait for each other.
        if not self._turn.acquire(timeout=timeout):
            raise ProviderTimeout("no memory for a large response became free in time")
        try:
            while held < units:
                if not self._free.acquire(timeout=timeout):
                    raise ProviderTimeout("no memory for a large response became free in time")
                held += 1
        except BaseException:  # a killed caller leaves nothing behind either
            self.release(held)
            raise
        finally:
            self._turn.release()
        return held

    def release(self, units: int) -> None:
        for _ in range(units):
            self._free.release()
