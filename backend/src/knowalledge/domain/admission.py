"""The waiting room of one target: who waits, who is next, who is shed, and when.

Order, from the outside in
    level    CRITICAL before HIGH before MEDIUM before LOW
    aging    but every ``AGED_EVERY``-th grant goes to the oldest waiter of a lower level, once it has waited
             ``aging_s``: a bounded share, so that LOW is served in bounded time and HIGH hardly notices
    tenant   within a level, whoever was served the fewest weighted tokens (Virtual Token Counter,
             arxiv.org/abs/2401.00588); a tenant that comes back from idling starts at the level's minimum,
             without credit for the time it asked for nothing
    arrival  within a tenant, first come first served

A waiter leaves in exactly one way, an ``Ending``. Like the ledger this is plain arithmetic: moments are whole
microseconds and come in as arguments; the Lua scripts repeat it.
"""

from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import Struct

from knowalledge.domain.model import Priority
from knowalledge.domain.quota import SECOND, Need

# One grant in this many may go to an aged waiter of a lower level: 5% of the grants.
AGED_EVERY = 20


class Ending(StrEnum):
    """How a waiter left."""

    GRANTED = "granted"
    SHED = "shed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REPLICA_LOST = "replica_lost"
    SHUTTING_DOWN = "shutting_down"


class Waiter(Struct, frozen=True):
    """One request that waits. Moments in microseconds."""

    id: str
    level: Priority
    tenant: str
    need: Need
    arrived: int
    deadline: int


class Rules(Struct, frozen=True):
    """How a room is run."""

    capacity: int = 100
    aging_s: float = 15.0
    weights: Mapping[str, float] = {}  # by tenant; 1 where absent

    def cost(self, tenant: str, need: Need) -> float:
        """What serving a need adds to a tenant's counter: weighted tokens."""
        return (need.input + need.output) / self.weights.get(tenant, 1.0)


class Entered(Struct, frozen=True):
    """A room's answer to a newcomer."""

    admitted: bool
    shed: Waiter | None = None  # who had to go for it


class _Line:
    """One level: its tenants' queues and counters."""

    __slots__ = ("queues", "served")

    def __init__(self) -> None:
        self.queues: dict[str, list[Waiter]] = {}  # only tenants with somebody waiting
        self.served: dict[str, float] = {}  # weighted tokens, of tenants waiting or seen lately

    def lift(self, tenant: str) -> None:
        """A tenant begins to wait: at its own counter, but not below the least of those that are waiting."""
        least = min((self.served[name] for name in self.queues), default=0.0)
        self.served[tenant] = max(self.served.get(tenant, 0.0), least)

    def next(self) -> Waiter | None:
        if not self.queues:
            return None
        heads = (queue[0] for queue in self.queues.values())
        return min(heads, key=lambda it: (self.served[it.tenant], it.arrived, it.id))

    def oldest(self) -> Waiter | None:
        return min(
            (queue[0] for queue in self.queues.values()), key=lambda it: (it.arrived, it.id), default=None
        )


class Room:
    """Who waits for one target's quota."""

    # Counters of idle tenants kept per level; beyond it the least served are forgotten, which costs them nothing.
    REMEMBERED = 1000

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._lines = {level: _Line() for level in Priority}
        self._waiters: dict[str, Waiter] = {}
        self._since_aged = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, key: str) -> bool:
        return key in self._waiters

    def enter(self, waiter: Waiter) -> Entered:
        """Take a place. A full room sheds the newest waiter of the lowest level below the newcomer's, or refuses."""
        shed = None
        if len(self._waiters) >= self.rules.capacity:
            shed = self._newest_below(waiter.level)
            if shed is None:
                return Entered(False)
            self.leave(shed.id)
        line = self._lines[waiter.level]
        if waiter.tenant not in line.queues:
            line.lift(waiter.tenant)
            line.queues[waiter.tenant] = []
        queue = line.queues[waiter.tenant]
        # Almost always at the end; a waiter that re-enters after a fault keeps its place by its arrival.
        place = len(queue)
        while place and (queue[place - 1].arrived, queue[place - 1].id) > (waiter.arrived, waiter.id):
            place -= 1
        queue.insert(place, waiter)
        self._waiters[waiter.id] = waiter
        return Entered(True, shed)

    def _newest_below(self, level: Priority) -> Waiter | None:
        for lower in sorted((it for it in Priority if it > level), reverse=True):
            queues = self._lines[lower].queues.values()
            newest = max((queue[-1] for queue in queues), key=lambda it: (it.arrived, it.id), default=None)
            if newest is not None:
                return newest
        return None

    def leave(self, key: str) -> Waiter | None:
        """Give up a place, for whatever reason; None if it was not held any more."""
        waiter = self._waiters.pop(key, None)
        if waiter is None:
            return None
        line = self._lines[waiter.level]
        queue = line.queues[waiter.tenant]
        queue.remove(waiter)
        if not queue:
            del line.queues[waiter.tenant]
            self._forget(line)
        return waiter

    def _forget(self, line: _Line) -> None:
        if len(line.served) > self.REMEMBERED:
            idle = sorted(
                (name for name in line.served if name not in line.queues), key=line.served.__getitem__
            )
            for name in idle[: len(line.served) - self.REMEMBERED]:
                del line.served[name]

    def next(self, now: int) -> Waiter | None:
        """Who is served next. Asking changes nothing."""
        heads = [(level, line.next()) for level, line in self._lines.items()]
        waiting = [(level, head) for level, head in heads if head is not None]
        if not waiting:
            return None
        top, head = waiting[0]
        if self._since_aged >= AGED_EVERY - 1:
            aged = self._aged(now, top)
            if aged is not None:
                return aged
        return head

    def _aged(self, now: int, top: Priority) -> Waiter | None:
        oldest = [self._lines[level].oldest() for level in Priority if level > top]
        limit = now - int(self.rules.aging_s * SECOND)
        return min(
            (it for it in oldest if it is not None and it.arrived <= limit),
            key=lambda it: (it.arrived, it.id),
            default=None,
        )

    def served(self, waiter: Waiter) -> None:
        """The quota was granted to this waiter: it leaves, and its tenant's counter moves."""
        top = next(level for level, line in self._lines.items() if line.queues)
        self._since_aged = 0 if waiter.level > top else self._since_aged + 1
        self._lines[waiter.level].served[waiter.tenant] += self.rules.cost(waiter.tenant, waiter.need)
        self.leave(waiter.id)

    def correct(self, level: Priority, tenant: str, estimated: Need, true: Need) -> None:
        """The answer is complete: the counter gets the truth in the estimate's place."""
        served = self._lines[level].served
        if tenant in served:
            served[tenant] += self.rules.cost(tenant, true) - self.rules.cost(tenant, estimated)

    def overdue(self, now: int) -> list[Waiter]:
        """Waiters whose deadline has passed."""
        return [waiter for waiter in self._waiters.values() if waiter.deadline <= now]

    def ahead_of(self, level: Priority, arrived: int) -> Iterator[Waiter]:
        """Who is ahead of a waiter of this level and arrival, as position and ETA count it."""
        return (it for it in self._waiters.values() if (it.level, it.arrived) < (level, arrived))

    def depth(self, level: Priority) -> int:
        return sum(map(len, self._lines[level].queues.values()))
