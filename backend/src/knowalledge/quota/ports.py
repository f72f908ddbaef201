"""What the gateway needs of a quota, as Protocols."""

from collections.abc import Mapping
from enum import Enum
from typing import Protocol

from msgspec import Struct

from knowalledge.core.context import Priority
from knowalledge.quota.domain.admission import Refusal
from knowalledge.quota.domain.queue import QueueOutcome, TenantQueueStats
from knowalledge.quota.domain.window import TokenCost, WindowStatus


class ReservationRequest(Struct, frozen=True):
    """One request that asks for quota."""

    id: str
    need: TokenCost
    level: Priority = Priority.MEDIUM
    tenant: str = ""
    patience_s: float = 0.0  # how long it would wait for its turn; 0: not at all
    arrived: int = 0  # microseconds; of one that asks again and keeps its place by it, else 0


class AskAgain(Enum):
    """The room that a place was in is gone, the place is not: ask again with the moment of arrival."""

    AGAIN = "again"


class Reservation(Struct, frozen=True):
    """Quota that was granted; it ends in exactly one way: settled, released, or its holder dies."""

    target: str
    id: str
    need: TokenCost


class Ticket(Protocol):
    """A place in the waiting room."""

    @property
    def position(self) -> int:
        """From 1; kept up to date while it waits."""
        ...

    @property
    def eta_s(self) -> float: ...

    @property
    def arrived(self) -> int:
        """Microseconds, by the room's clock."""
        ...

    def wait(self, timeout: float) -> "Decision | QueueOutcome | AskAgain | None":
        """The grant, or how the place was lost; None when the timeout (seconds) passed and it still waits."""
        ...

    def leave(self, ending: QueueOutcome) -> bool:
        """Give the place up. False if it was over already: then ``wait`` tells how, perhaps by a grant."""
        ...


class Decision(Struct, frozen=True):
    """The quota's answer: granted, a place in the room, or when. Never a bare bool."""

    reservation: Reservation | None = None
    ticket: Ticket | None = None
    refusal: Refusal | None = None
    wait_s: float = 0.0  # unless granted: seconds until its turn
    window: str = ""  # unless granted: the window that it waits for
    levels: tuple[WindowStatus, ...] = ()  # every window as it stands after the decision
    degraded: bool = False  # decided by this replica's share alone


class QueueStats(Struct, frozen=True):
    """One level of one room."""

    level: Priority
    waiting: int
    oldest_s: float
    eta_s: float  # for a newcomer
    tenants: Mapping[str, TenantQueueStats]  # bounded
    left: Mapping[QueueOutcome, int]  # since the room was opened


class Tally(Struct, frozen=True):
    """What has happened to one target's quota since its state began, over all replicas."""

    settled: int = 0
    released: int = 0
    refused: int = 0  # those who asked and got neither quota nor a place
    limited: int = 0  # 429s of the provider
    drift_input: int = 0  # tokens: the truth less the estimate, summed
    drift_output: int = 0


class QuotaStore(Protocol):
    """The one quota of each target, and its waiting room, shared by every replica that asks the same store.

    ``ask`` raises ``NeverFits`` when a need is larger than a whole window. If the shared store is gone, a replica
    decides by its own share and says ``degraded``; no method raises for it.
    """

    def ask(self, target: str, asking: ReservationRequest) -> Decision: ...

    def settle(self, reservation: Reservation, true: TokenCost) -> None: ...

    def release(self, reservation: Reservation) -> None: ...

    def refused(self, reservation: Reservation) -> None:
        """The provider answered 429: released, and what is learnt of its limits comes down."""
        ...

    def close_until(self, target: str, seconds: float, window: str) -> None:
        """Grant nothing for this target for ``seconds``: the provider said so."""
        ...

    def levels(self, target: str) -> tuple[WindowStatus, ...]: ...

    def tally(self, target: str) -> Tally: ...

    def depths(self, target: str) -> tuple[QueueStats, ...]: ...
