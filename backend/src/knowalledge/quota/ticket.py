"""A place in a waiting room, as the greenlet that waits sees it."""

from collections.abc import Callable

from gevent import Timeout
from gevent.event import AsyncResult

from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.ports import Dequeued, WaitResult


class WaitingTicket:
    """Implements ``Ticket`` for both stores: the store ends the wait once; the waiting greenlet gets the result."""

    def __init__(self, give_up: Callable[[QueueOutcome], None]) -> None:
        """``give_up`` removes the place from the store, and releases a grant that is under way."""
        self.position = 0
        self.eta_s = 0.0
        self.arrived = 0
        self._give_up = give_up
        self._result: AsyncResult[WaitResult] = AsyncResult()

    @property
    def ended(self) -> bool:
        return self._result.ready()

    def end(self, result: WaitResult) -> bool:
        """End the wait with the store's result; False if it had ended already."""
        if self._result.ready():
            return False
        self._result.set(result)
        return True

    def wait(self, timeout: float) -> WaitResult | None:
        try:
            return self._result.get(timeout=max(0.0, timeout))
        except Timeout:
            return None

    def leave(self, outcome: QueueOutcome) -> bool:
        mine = self.end(Dequeued(outcome))
        if mine:
            self._give_up(outcome)
        return mine
