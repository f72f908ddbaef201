"""What the gateway needs of a quota, as Protocols."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct

from knowalledge.core.context import Priority
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.queue import QueueOutcome, TenantQueueStats
from knowalledge.quota.domain.window import TokenCost, WindowStatus


class ReservationRequest(Struct, frozen=True):
    """One request for quota of one target."""

    id: str
    cost: TokenCost  # estimated
    level: Priority = Priority.MEDIUM
    tenant: str = ""
    patience_s: float = 0.0  # longest acceptable wait in the queue; 0: does not queue
    arrived: int = (
        0  # microseconds; 0: now. A request that reserves again after ``Requeue`` keeps its order by this
    )


class Reservation(Struct, frozen=True):
    """Quota in hand. It ends in exactly one way: settled, released, or its lease ends with its replica."""

    target: str
    id: str
    cost: TokenCost  # as charged


class Granted(Struct, frozen=True):
    """The request may be sent now. The holder of the reservation must end it."""

    reservation: Reservation
    window_status: tuple[WindowStatus, ...] = ()  # every window after the decision; () if not known
    degraded: bool = False  # decided by this replica's share alone


class Queued(Struct, frozen=True):
    """The request has a place in the waiting room."""

    ticket: "Ticket"
    window_status: tuple[WindowStatus, ...] = ()
    degraded: bool = False


class Refused(Struct, frozen=True):
    """Neither quota nor a place."""

    reason: RefusalReason
    wait_s: float  # seconds until an equal request would be granted
    window: str  # the window that it would wait for; "" if the provider closed the target without naming one
    window_status: tuple[WindowStatus, ...] = ()
    degraded: bool = False


Decision = Granted | Queued | Refused


class Dequeued(Struct, frozen=True):
    """The place was lost without a grant."""

    outcome: QueueOutcome


class Requeue(Struct, frozen=True):
    """The queue that held the place is gone. Reserve again with the ticket's ``arrived`` to keep the order."""


WaitResult = Granted | Dequeued | Requeue


class Ticket(Protocol):
    """A place in the waiting room."""

    @property
    def position(self) -> int:
        """From 1; refreshed about once a second while the request waits."""
        ...

    @property
    def eta_s(self) -> float:
        """Estimated seconds until the grant; refreshed with ``position``."""
        ...

    @property
    def arrived(self) -> int:
        """Moment of arrival in microseconds, by the store's clock."""
        ...

    def wait(self, timeout: float) -> WaitResult | None:
        """Wait up to ``timeout`` seconds; None if the request still waits then."""
        ...

    def leave(self, outcome: QueueOutcome) -> bool:
        """Give the place up. False if the wait had ended already: ``wait`` then returns its result, perhaps a grant."""
        ...


class QueueStats(Struct, frozen=True):
    """One priority level of one target's queue."""

    level: Priority
    waiting: int
    oldest_s: float  # seconds that the longest waiting request has waited
    eta_s: float  # for a newcomer
    tenants: Mapping[str, TenantQueueStats]  # bounded
    left: Mapping[QueueOutcome, int]  # since the state began


class QuotaTotals(Struct, frozen=True):
    """Counters of one target over all replicas, since its state began."""

    settled: int = 0
    released: int = 0
    refused: int = 0  # requests that got neither quota nor a place
    rejected: int = 0  # 429s of the provider
    drift_input: int = 0  # tokens: actual less estimated, summed
    drift_output: int = 0


class QuotaStore(Protocol):
    """The quota of each target and its queue, one for all replicas that use the same store.

    If the shared store is lost, a replica decides by its own share and marks its decisions ``degraded``; no method
    raises for it.
    """

    def reserve(self, target: str, request: ReservationRequest) -> Decision:
        """Charge every window of the target, or queue, or refuse, in one atomic step.

        Raises ``NeverFits`` when the cost is larger than a whole window.
        """
        ...

    def settle(self, reservation: Reservation, actual: TokenCost) -> None:
        """The call is complete: replace the estimated cost by the actual one."""
        ...

    def release(self, reservation: Reservation) -> None:
        """Nothing was sent: undo the charge."""
        ...

    def release_rejected(self, reservation: Reservation) -> None:
        """The provider answered 429: undo the charge, and lower the learnt limits."""
        ...

    def close_gate(self, target: str, seconds: float, window: str) -> None:
        """Grant nothing for this target for ``seconds``: the provider asked for it, naming ``window`` or "".

        Closing never shortens a gate that is closed for longer.
        """
        ...

    def window_status(self, target: str) -> tuple[WindowStatus, ...]: ...

    def totals(self, target: str) -> QuotaTotals: ...

    def queue_stats(self, target: str) -> tuple[QueueStats, ...]:
        """One for each priority level, the most urgent first."""
        ...
