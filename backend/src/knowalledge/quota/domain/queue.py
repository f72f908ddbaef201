"""The wait queue of one target.

Order, from the outside in
    level    CRITICAL before HIGH before MEDIUM before LOW
    aging    if the lowest level that waits had none of the last ``AGED_EVERY`` - 1 grants, the next one goes to the
             oldest waiter of a lower level that has waited ``aging_s``. So LOW is granted in bounded time; HIGH hardly
             notices, and not at all while LOW has grants of its own
    tenant   within a level, the tenant that was granted the fewest weighted tokens (Virtual Token Counter,
             arxiv.org/abs/2401.00588). A tenant that comes back from idling starts at the level's minimum,
             without credit for the time it asked for nothing
    arrival  within a tenant, first come first served

A waiter leaves in exactly one way, a ``QueueOutcome``. Plain arithmetic on microseconds; ``scripts/_queue.lua``
repeats it.
"""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.context import Priority
from knowalledge.quota.domain.window import SECOND, UNLIMITED, Backlog, LevelPolicy, TokenCost

# One grant in this many may go to an aged waiter of a lower level: at most 5% of the grants.
AGED_EVERY = 20
# Counters of idle tenants kept for each level. Beyond it the least granted are forgotten, which costs them nothing.
REMEMBERED_TENANTS = 1000
# Tenants of a level that the statistics name.
STATS_TENANTS = 100
# Grants are counted in periods of so many microseconds. The last two say which part higher priorities take.
PERIOD = 30 * SECOND
# An ETA is at most this many times what the backlog alone makes it.
MAX_SLOWDOWN = 10.0


class QueueOutcome(StrEnum):
    """How a waiter left."""

    GRANTED = "granted"
    SHED = "shed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REPLICA_LOST = "replica_lost"
    SHUTTING_DOWN = "shutting_down"


class Waiter(Struct, frozen=True):
    """One request for quota, which waits if it must."""

    id: str
    level: Priority
    tenant: str
    cost: TokenCost  # estimated
    arrived: int  # microseconds


class QueueRules(Struct, frozen=True):
    """How the queues are run."""

    capacity: int = 100  # waiters of one target
    aging_s: float = 15.0  # a waiter of a lower level is aged after so many seconds
    weights: Mapping[str, float] = {}  # by tenant; 1 where absent
    policies: Mapping[Priority, LevelPolicy] = {}  # by level; unlimited where absent

    def weighted(self, tenant: str, cost: TokenCost) -> float:
        """What granting a cost adds to the tenant's counter: weighted tokens."""
        return (cost.input + cost.output) / self.weights.get(tenant, 1.0)

    def policy(self, level: Priority) -> LevelPolicy:
        return self.policies.get(level, UNLIMITED)


class TenantQueueStats(Struct, frozen=True):
    """A tenant at one level of one target's queue."""

    waiting: int
    oldest_s: float  # seconds that its oldest waiter has waited; 0 if none
    eta_s: float  # of a newcomer of this tenant
    left: Mapping[QueueOutcome, int]  # since it was last forgotten, see REMEMBERED_TENANTS


def turns_ahead(own: int, tenants: int) -> int:
    """Waiters of a level ahead of a newcomer if its tenants take turns: ``own`` wait of its tenant, which counts."""
    return (own + 1) * (tenants + (own == 0)) - 1


def eta_share(above: int, size: int, own: int, tenants: int) -> float:
    """A tenant's part of its level's ETA; ``above``: waiters of higher priority. Costs are taken to be equal."""
    return (above + min(size, turns_ahead(own, tenants))) / (above + size) if size else 1.0


class _PriorityQueue:
    """One level: its tenants' queues and counters, and the cost of all its waiters."""

    __slots__ = ("input", "left", "output", "queues", "served", "size")

    def __init__(self) -> None:
        self.queues: dict[str, list[Waiter]] = {}  # of tenants that wait, by arrival
        self.served: dict[str, float] = {}  # weighted tokens granted, of tenants that wait or waited lately
        self.left: dict[str, Counter[QueueOutcome]] = {}  # outcomes of the same tenants' waiters
        self.size = 0
        self.input = self.output = 0

    def enqueue(self, waiter: Waiter) -> None:
        queue = self.queues.get(waiter.tenant)
        if queue is None:
            least = min((self.served[name] for name in self.queues), default=0.0)
            self.served[waiter.tenant] = max(self.served.get(waiter.tenant, 0.0), least)
            queue = self.queues[waiter.tenant] = []
        # Almost always at the end. A waiter that reserves again after a loss keeps its place by its arrival.
        place = len(queue)
        while place and _age(queue[place - 1]) > _age(waiter):
            place -= 1
        queue.insert(place, waiter)
        self.size += 1
        self.input += waiter.cost.input
        self.output += waiter.cost.output

    def dequeue(self, waiter: Waiter, outcome: QueueOutcome | None) -> None:
        if outcome is not None:
            self.left.setdefault(waiter.tenant, Counter())[outcome] += 1
        queue = self.queues[waiter.tenant]
        queue.remove(waiter)
        self.size -= 1
        self.input -= waiter.cost.input
        self.output -= waiter.cost.output
        if not queue:
            del self.queues[waiter.tenant]
            self._forget_idle_tenants()

    def _forget_idle_tenants(self) -> None:
        excess = len(self.served) - REMEMBERED_TENANTS
        if excess > 0:
            idle = sorted((it for it in self.served if it not in self.queues), key=self.served.__getitem__)
            for tenant in idle[:excess]:
                del self.served[tenant]
                self.left.pop(tenant, None)

    def cost_of(self, count: int) -> TokenCost:
        """The cost of so many of its waiters, taken to be equal."""
        if count == self.size:
            return TokenCost(self.input, self.output)
        return TokenCost(self.input * count // self.size, self.output * count // self.size)

    def tenants(self) -> list[str]:
        """Tenants that wait, the least granted first; then idle tenants, the most granted first."""
        names = sorted(self.served, key=lambda it: (self.served[it], it))
        return [it for it in names if it in self.queues] + [it for it in names[::-1] if it not in self.queues]

    def next(self) -> Waiter | None:
        heads = (queue[0] for queue in self.queues.values())
        return min(heads, key=lambda it: (self.served[it.tenant], *_age(it)), default=None)

    def oldest(self) -> Waiter | None:
        return min((queue[0] for queue in self.queues.values()), key=_age, default=None)

    def newest(self) -> Waiter | None:
        return max((queue[-1] for queue in self.queues.values()), key=_age, default=None)


def _age(waiter: Waiter) -> tuple[int, str]:
    return waiter.arrived, waiter.id


class WaitQueue:
    """The requests that wait for one target's quota."""

    def __init__(self, rules: QueueRules) -> None:
        self.rules = rules
        self.left: Counter[tuple[Priority, QueueOutcome]] = Counter()
        self._levels = {level: _PriorityQueue() for level in Priority}
        self._waiters: dict[str, Waiter] = {}
        self._since_aged = 0  # grants since the lowest level that waits had one
        self._grants = {level: [0, 0] for level in Priority}  # in this period and in the one before
        self._period = 0  # number of the period

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, waiter_id: str) -> bool:
        return waiter_id in self._waiters

    def get(self, waiter_id: str) -> Waiter | None:
        return self._waiters.get(waiter_id)

    def enter(self, waiter: Waiter) -> tuple[bool, Waiter | None]:
        """Take a place; whether there was one, and the waiter that was shed for it.

        A full queue sheds the newest waiter of the lowest level below the newcomer's. If there is none, it sheds the
        newest of the tenant with the most places in the newcomer's level, if that has more than the newcomer's will:
        so no tenant keeps the others out by asking more often.
        """
        shed = None
        if len(self._waiters) >= self.rules.capacity:
            shed = self._newest_below(waiter.level) or self._newest_of_largest_tenant(waiter)
            if shed is None:
                return False, None
            self.leave(shed.id, QueueOutcome.SHED)
        self._levels[waiter.level].enqueue(waiter)
        self._waiters[waiter.id] = waiter
        return True, shed

    def _newest_below(self, level: Priority) -> Waiter | None:
        for lower in sorted((it for it in Priority if it > level), reverse=True):
            newest = self._levels[lower].newest()
            if newest is not None:
                return newest
        return None

    def _newest_of_largest_tenant(self, newcomer: Waiter) -> Waiter | None:
        weights, queues = self.rules.weights, self._levels[newcomer.level].queues
        places = {tenant: len(queue) / weights.get(tenant, 1.0) for tenant, queue in queues.items()}
        largest = max(places, key=lambda it: (places[it], it), default=None)
        own = (len(queues.get(newcomer.tenant, ())) + 1) / weights.get(newcomer.tenant, 1.0)
        return queues[largest][-1] if largest is not None and places[largest] > own else None

    def leave(self, waiter_id: str, outcome: QueueOutcome | None) -> Waiter | None:
        """Give up a place; None if it was not held. Without an outcome the place is only taken up elsewhere."""
        waiter = self._waiters.pop(waiter_id, None)
        if waiter is not None:
            self._levels[waiter.level].dequeue(waiter, outcome)
            if outcome is not None:
                self.left[waiter.level, outcome] += 1
        return waiter

    def may_bypass(self, now: int, level: Priority) -> bool:
        """Whether a newcomer may be granted before every waiter."""
        if not self._waiters:
            return True
        for other, queue in self._levels.items():
            if queue.size and other <= level:
                return False
        return self._next_aged(now, level) is None

    def next(self, now: int) -> Waiter | None:
        """The waiter that is granted next; nothing changes."""
        top = next((level for level, queue in self._levels.items() if queue.size), None)
        if top is None:
            return None
        return self._next_aged(now, top) or self._levels[top].next()

    def _next_aged(self, now: int, top: Priority) -> Waiter | None:
        """The oldest aged waiter of a level below ``top``, when the aged have a turn."""
        if self._since_aged < AGED_EVERY - 1:
            return None
        oldest = [queue.oldest() for level, queue in self._levels.items() if queue.size and level > top]
        aged_since = now - int(self.rules.aging_s * SECOND)
        return min(
            (it for it in oldest if it is not None and it.arrived <= aged_since), key=_age, default=None
        )

    def slowdown(self, now: int, level: Priority) -> float:
        """Factor by which a turn takes longer because higher priorities keep coming: from their recent grants."""
        passed = now // PERIOD - self._period
        total, above = 1, 0  # one for the newcomer itself: no grants prove nothing
        for other, (current, before) in self._grants.items():
            recent = current + before if passed <= 0 else current if passed == 1 else 0
            total += recent
            if other < level:
                above += recent
        return min(MAX_SLOWDOWN, total / (total - above))

    def _count_grant(self, now: int, level: Priority) -> None:
        """Only grants begin a new period, never a question, as in the scripts, which write only then."""
        passed = now // PERIOD - self._period
        if passed > 0:
            for counts in self._grants.values():
                counts[:] = 0, counts[0] if passed == 1 else 0
            self._period += passed
        self._grants[level][0] += 1

    def set_back(self, by: int) -> None:
        """The clock was set back by so many microseconds: every waiter has waited for as long as before."""
        self._period -= by // PERIOD
        moved = {waiter.id: replace(waiter, arrived=waiter.arrived - by) for waiter in self._waiters.values()}
        self._waiters = moved
        for level in self._levels.values():
            for queue in level.queues.values():
                queue[:] = [moved[waiter.id] for waiter in queue]

    def record_bypass(self, now: int, level: Priority) -> None:
        """A newcomer was granted before those who wait, if any."""
        self._count_grant(now, level)
        if self._waiters:
            self._since_aged += 1

    def record_grant(self, now: int, waiter: Waiter) -> None:
        """This waiter was granted: it leaves, and its tenant's counter moves."""
        self._count_grant(now, waiter.level)
        waiting = [level for level, queue in self._levels.items() if queue.size]
        if waiter.level > waiting[0] or waiter.level == waiting[-1]:
            self._since_aged = 0
        else:
            self._since_aged += 1
        self._levels[waiter.level].served[waiter.tenant] += self.rules.weighted(waiter.tenant, waiter.cost)
        self.leave(waiter.id, QueueOutcome.GRANTED)

    def correct(self, waiter: Waiter, actual: TokenCost) -> None:
        """The answer is complete: the tenant's counter gets the actual cost in place of the estimate."""
        served, rules = self._levels[waiter.level].served, self.rules
        if waiter.tenant in served:
            correction = rules.weighted(waiter.tenant, actual) - rules.weighted(waiter.tenant, waiter.cost)
            served[waiter.tenant] += correction

    def backlog(self, waiter: Waiter) -> Backlog:
        """What is ahead of a waiter or a newcomer: higher priorities, and those of its level that came before it.

        The cost of the latter is their part of the level's; exact for a newcomer, which is behind its whole level.
        """
        queue = self._levels[waiter.level]
        earlier = queue.size
        if waiter.id in self._waiters:
            earlier = sum(_age(it) < _age(waiter) for own in queue.queues.values() for it in own)
        return self._backlog(waiter.level, earlier)

    def backlog_in_turns(self, newcomer: Waiter) -> Backlog:
        """The same for a newcomer if the tenants of its level, with equal costs, had one grant each in turn."""
        queue = self._levels[newcomer.level]
        turns = turns_ahead(len(queue.queues.get(newcomer.tenant, ())), len(queue.queues))
        return self._backlog(newcomer.level, min(turns, queue.size))

    def _backlog(self, level: Priority, earlier: int) -> Backlog:
        own = self._levels[level].cost_of(earlier)
        count, inputs, outputs = earlier, own.input, own.output
        for other, queue in self._levels.items():
            if queue.size and other < level:
                count += queue.size
                inputs += queue.input
                outputs += queue.output
        return Backlog(count, TokenCost(inputs, outputs))

    def positions(self) -> dict[str, int]:
        """Every waiter's position, from 1: by level, then by arrival."""
        ordered = sorted(self._waiters.values(), key=lambda it: (it.level, *_age(it)))
        return {waiter.id: place for place, waiter in enumerate(ordered, 1)}

    def size(self, level: Priority) -> int:
        return self._levels[level].size

    def oldest(self, level: Priority) -> int | None:
        """When the oldest waiter of a level arrived; None if it has none."""
        waiter = self._levels[level].oldest()
        return waiter.arrived if waiter else None

    def tenant_stats(self, now: int, level: Priority, eta_s: float) -> dict[str, TenantQueueStats]:
        """A level by tenant, those that wait first; at most ``STATS_TENANTS``. ``eta_s``: the level's."""
        queue = self._levels[level]
        above = sum(other.size for higher, other in self._levels.items() if higher < level)
        stats = {}
        for tenant in queue.tenants()[:STATS_TENANTS]:
            own = queue.queues.get(tenant, [])
            stats[tenant] = TenantQueueStats(
                waiting=len(own),
                oldest_s=(now - own[0].arrived) / SECOND if own else 0.0,
                eta_s=eta_s * eta_share(above, queue.size, len(own), len(queue.queues)),
                left=queue.left.get(tenant, Counter()),
            )
        return stats
