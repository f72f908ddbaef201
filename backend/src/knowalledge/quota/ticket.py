"""A place in a waiting room, as the greenlet that waits sees it."""

from collections.abc import Callable

from gevent import Timeout
from gevent.event import AsyncResult

from knowalledge.quota.domain.queue import QueueOutcome
from knowalledge.quota.ports import AskAgain, Decision


class WaitingTicket:
    """Implements ``Ticket`` for both stores: the store ends it, once; the waiter waits for that."""

    def __init__(self, give_up: Callable[[QueueOutcome], None]) -> None:
        """``give_up`` takes the place back, and releases a grant that is on its way."""
        self.position = 0
        self.eta_s = 0.0
        self.arrived = 0
        self._give_up = give_up
        self._end: AsyncResult[Decision | QueueOutcome | AskAgain] = AsyncResult()

    @property
    def over(self) -> bool:
        return self._end.ready()

    def end(self, result: Decision | QueueOutcome | AskAgain) -> bool:
        """The store's word on it; False if it was over already."""
        if self._end.ready():
            return False
        self._end.set(result)
        return True

    def wait(self, timeout: float) -> Decision | QueueOutcome | AskAgain | None:
        try:
            return self._end.get(timeout=max(0.0, timeout))
        except Timeout:
            return None

    def leave(self, ending: QueueOutcome) -> bool:
        mine = self.end(ending)
        if mine:
            self._give_up(ending)
        return mine
