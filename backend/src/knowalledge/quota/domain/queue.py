"""The priority queue of one target's waiting room."""

from collections import Counter
from collections.abc import Mapping
from enum import StrEnum

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.core.context import Priority
from knowalledge.quota.domain.window import SECOND, UNLIMITED, LevelPolicy, TokenCost

# One grant in this many may go to an aged waiter of a lower level: at most 5% of the grants.
AGED_EVERY = 20
# Counters of idle tenants kept per level; beyond it the least served are forgotten, which costs them nothing.
REMEMBERED = 1000
# Tenants of a level that statistics tell of.
TENANTS = 100
# The share of grants that went to the more urgent is taken from so many microseconds, and up to twice as many.
LOOK_BACK = 30 * SECOND
# A turn is never said to be more than this many times further away than those ahead make it.
SLOWEST = 10.0


class QueueOutcome(StrEnum):
    """How a waiter left."""

    GRANTED = "granted"
    SHED = "shed"
    TIMED_OUT = "timed_out"
    CANCELLED = "cancelled"
    REPLICA_LOST = "replica_lost"
    SHUTTING_DOWN = "shutting_down"


class Waiter(Struct, frozen=True):
    """One request that asks, and waits if it must. ``arrived`` in microseconds."""

    id: str
    level: Priority
    tenant: str
    need: TokenCost
    arrived: int


class QueueRules(Struct, frozen=True):
    """How a room is run."""

    capacity: int = 100
    aging_s: float = 15.0
    weights: Mapping[str, float] = {}  # by tenant; 1 where absent
    lanes: Mapping[Priority, LevelPolicy] = {}

    def cost(self, tenant: str, need: TokenCost) -> float:
        """What serving a need adds to a tenant's counter: weighted tokens."""
        return (need.input + need.output) / self.weights.get(tenant, 1.0)

    def lane(self, level: Priority) -> LevelPolicy:
        return self.lanes.get(level, UNLIMITED)


class TenantQueueStats(Struct, frozen=True):
    """A tenant at one level of one room."""

    waiting: int
    oldest_s: float
    eta_s: float  # for a newcomer of its own
    left: Mapping[QueueOutcome, int]  # since it was last forgotten: a thousand idle tenants are remembered


def in_turns(own: int, tenants: int) -> int:
    """How many of a level go before one with ``own`` of its tenant waiting, if ``tenants`` were served in turns."""
    return (own + 1) * (tenants + (own == 0)) - 1


def part_in_turns(above: int, size: int, own: int, tenants: int) -> float:
    """What part of a level's ETA is that of a tenant, ``above`` being more urgent; its waiters taken for equals."""
    return (above + min(size, in_turns(own, tenants))) / (above + size) if size else 1.0


class _PriorityQueue:
    """One level: its tenants' queues and counters, and what all of it needs."""

    __slots__ = ("input", "left", "output", "queues", "served", "size")

    def __init__(self) -> None:
        self.queues: dict[str, list[Waiter]] = {}  # only tenants with somebody waiting
        self.served: dict[str, float] = {}  # weighted tokens, of tenants waiting or seen lately
        self.left: dict[str, Counter[QueueOutcome]] = {}  # how waiters of the same tenants have left
        self.size = 0
        self.input = self.output = 0  # that all of it needs

    def put(self, waiter: Waiter) -> None:
        queue = self.queues.get(waiter.tenant)
        if queue is None:
            least = min((self.served[name] for name in self.queues), default=0.0)
            self.served[waiter.tenant] = max(self.served.get(waiter.tenant, 0.0), least)
            queue = self.queues[waiter.tenant] = []
        # Almost always at the end; a waiter that re-enters after a fault keeps its place by its arrival.
        place = len(queue)
        while place and _age(queue[place - 1]) > _age(waiter):
            place -= 1
        queue.insert(place, waiter)
        self.size += 1
        self.input += waiter.need.input
        self.output += waiter.need.output

    def take(self, waiter: Waiter, ending: QueueOutcome | None) -> None:
        if ending is not None:
            self.left.setdefault(waiter.tenant, Counter())[ending] += 1
        queue = self.queues[waiter.tenant]
        queue.remove(waiter)
        self.size -= 1
        self.input -= waiter.need.input
        self.output -= waiter.need.output
        if not queue:
            del self.queues[waiter.tenant]
            if len(self.served) > REMEMBERED:
                idle = sorted(
                    (it for it in self.served if it not in self.queues), key=self.served.__getitem__
                )
                for name in idle[: len(self.served) - REMEMBERED]:
                    del self.served[name]
                    self.left.pop(name, None)

    def share(self, count: int) -> TokenCost:
        """What so many of its waiters need, taken for equals."""
        if count == self.size:
            return TokenCost(self.input, self.output)
        return TokenCost(self.input * count // self.size, self.output * count // self.size)

    def known(self) -> list[str]:
        """Tenants with somebody waiting, the least served first, then those seen lately, the most served first."""
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
    """Who waits for one target's quota."""

    def __init__(self, rules: QueueRules) -> None:
        self.rules = rules
        self._lines = {level: _PriorityQueue() for level in Priority}
        self._waiters: dict[str, Waiter] = {}
        self._since_aged = 0  # grants since one went to the lowest level that waits, in its turn or before it
        self.left: Counter[tuple[Priority, QueueOutcome]] = Counter()
        self._granted = {level: [0, 0] for level in Priority}  # in this look-back and in the one before
        self._look = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def __contains__(self, key: str) -> bool:
        return key in self._waiters

    def enter(self, waiter: Waiter) -> tuple[bool, Waiter | None]:
        """Take a place; whether there was one, and who was shed for it.

        A full room sheds the newest waiter of the lowest level below the newcomer's; else, so that nobody can keep
        the others out by asking more often, the newest of the tenant with the most places in the newcomer's level, if
        it has more than the newcomer's will.
        """
        shed = None
        if len(self._waiters) >= self.rules.capacity:
            shed = self._newest_below(waiter.level) or self._newest_of_most(waiter)
            if shed is None:
                return False, None
            self.leave(shed.id, QueueOutcome.SHED)
        self._lines[waiter.level].put(waiter)
        self._waiters[waiter.id] = waiter
        return True, shed

    def _newest_below(self, level: Priority) -> Waiter | None:
        for lower in sorted((it for it in Priority if it > level), reverse=True):
            newest = self._lines[lower].newest()
            if newest is not None:
                return newest
        return None

    def _newest_of_most(self, newcomer: Waiter) -> Waiter | None:
        weights, queues = self.rules.weights, self._lines[newcomer.level].queues
        places = {tenant: len(queue) / weights.get(tenant, 1.0) for tenant, queue in queues.items()}
        most = max(places, key=lambda it: (places[it], it), default=None)
        own = (len(queues.get(newcomer.tenant, ())) + 1) / weights.get(newcomer.tenant, 1.0)
        return queues[most][-1] if most is not None and places[most] > own else None

    def leave(self, key: str, ending: QueueOutcome | None) -> Waiter | None:
        """Give up a place (no ending: to take it up elsewhere); None if it was not held any more."""
        waiter = self._waiters.pop(key, None)
        if waiter is not None:
            self._lines[waiter.level].take(waiter, ending)
            if ending is not None:
                self.left[waiter.level, ending] += 1
        return waiter

    def passes(self, now: int, level: Priority) -> bool:
        """Whether a newcomer may be served before everybody who waits."""
        if not self._waiters:
            return True
        for other, line in self._lines.items():
            if line.size and other <= level:
                return False
        return self._due(now, level) is None

    def next(self, now: int) -> Waiter | None:
        """Who is served next. Asking changes nothing."""
        top = next((level for level, line in self._lines.items() if line.size), None)
        if top is None:
            return None
        return self._due(now, top) or self._lines[top].next()

    def _due(self, now: int, top: Priority) -> Waiter | None:
        """The oldest aged waiter below ``top``, when it is the turn of the aged."""
        if self._since_aged < AGED_EVERY - 1:
            return None
        oldest = [line.oldest() for level, line in self._lines.items() if line.size and level > top]
        limit = now - int(self.rules.aging_s * SECOND)
        return min((it for it in oldest if it is not None and it.arrived <= limit), key=_age, default=None)

    def slowed(self, now: int, level: Priority) -> float:
        """By how much longer a turn takes because the more urgent keep coming: from their share of the grants."""
        passed = now // LOOK_BACK - self._look
        total, urgent = 1, 0  # one for the newcomer itself: nothing granted yet proves nothing
        for other, (late, before) in self._granted.items():
            recent = late + before if passed <= 0 else late if passed == 1 else 0
            total += recent
            if other < level:
                urgent += recent
        return min(SLOWEST, total / (total - urgent))

    def _count(self, now: int, level: Priority) -> None:
        """Count a grant. Only grants move the look-back on, never a question: the scripts write it then as well."""
        passed = now // LOOK_BACK - self._look
        if passed > 0:
            for counts in self._granted.values():
                counts[:] = 0, counts[0] if passed == 1 else 0
            self._look += passed
        self._granted[level][0] += 1

    def set_back(self, by: int) -> None:
        """The clock was set back: whoever waits has waited for as long as before."""
        self._look -= by // LOOK_BACK
        moved = {key: replace(it, arrived=it.arrived - by) for key, it in self._waiters.items()}
        self._waiters = moved
        for line in self._lines.values():
            for queue in line.queues.values():
                queue[:] = [moved[it.id] for it in queue]

    def passed(self, now: int, level: Priority) -> None:
        """A newcomer was served before those who wait."""
        self._count(now, level)
        if self._waiters:
            self._since_aged += 1

    def served(self, now: int, waiter: Waiter) -> None:
        """The quota was granted to this waiter: it leaves, and its tenant's counter moves."""
        self._count(now, waiter.level)
        waiting = [level for level, line in self._lines.items() if line.size]
        if waiter.level > waiting[0] or waiter.level == waiting[-1]:
            self._since_aged = 0
        else:
            self._since_aged += 1
        self._lines[waiter.level].served[waiter.tenant] += self.rules.cost(waiter.tenant, waiter.need)
        self.leave(waiter.id, QueueOutcome.GRANTED)

    def correct(self, waiter: Waiter, true: TokenCost) -> None:
        """The answer is complete: the tenant's counter gets the truth in the estimate's place."""
        served = self._lines[waiter.level].served
        if waiter.tenant in served:
            rules = self.rules
            served[waiter.tenant] += rules.cost(waiter.tenant, true) - rules.cost(waiter.tenant, waiter.need)

    def before(self, waiter: Waiter) -> tuple[int, TokenCost]:
        """How many are ahead of one who waits or would, and what they need: the more urgent levels, and its elders.

        The need of the elders is their share of the level's; exact for a newcomer, which is behind all of its level.
        """
        line = self._lines[waiter.level]
        elders = line.size
        if waiter.id in self._waiters:
            elders = sum(_age(it) < _age(waiter) for queue in line.queues.values() for it in queue)
        return self._behind(waiter.level, elders)

    def before_in_turns(self, newcomer: Waiter) -> tuple[int, TokenCost]:
        """The same for a newcomer if all tenants of its level, taken for equals, were served one after the other."""
        line = self._lines[newcomer.level]
        turns = in_turns(len(line.queues.get(newcomer.tenant, ())), len(line.queues))
        return self._behind(newcomer.level, min(turns, line.size))

    def _behind(self, level: Priority, elders: int) -> tuple[int, TokenCost]:
        """The more urgent levels, and so many of this one."""
        own = self._lines[level].share(elders)
        count, inputs, outputs = elders, own.input, own.output
        for other, line in self._lines.items():
            if line.size and other < level:
                count += line.size
                inputs += line.input
                outputs += line.output
        return count, TokenCost(inputs, outputs)

    def positions(self) -> dict[str, int]:
        """Everybody's position, from 1: by level, then by arrival."""
        ordered = sorted(self._waiters.values(), key=lambda it: (it.level, *_age(it)))
        return {waiter.id: place for place, waiter in enumerate(ordered, 1)}

    def depth(self, level: Priority) -> int:
        return self._lines[level].size

    def oldest(self, level: Priority) -> int | None:
        """When the one who has waited longest in a level arrived."""
        waiter = self._lines[level].oldest()
        return waiter.arrived if waiter else None

    def crowds(self, now: int, level: Priority, eta_s: float) -> dict[str, TenantQueueStats]:
        """A level by tenant, those first that have somebody waiting; at most ``TENANTS``."""
        line = self._lines[level]
        above = sum(other.size for upper, other in self._lines.items() if upper < level)
        found = {}
        for tenant in line.known()[:TENANTS]:
            queue = line.queues.get(tenant, [])
            waited = (now - queue[0].arrived) / SECOND if queue else 0.0
            part = part_in_turns(above, line.size, len(queue), len(line.queues))
            found[tenant] = TenantQueueStats(
                len(queue), waited, eta_s * part, line.left.get(tenant, Counter())
            )
        return found

    def get(self, key: str) -> Waiter | None:
        return self._waiters.get(key)
