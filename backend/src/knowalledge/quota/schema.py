"""What the quota keeps in Redis, declared once: keys, hash fields, records, and the configuration that scripts read.

Names are short on the wire, because they are sent and stored often. Python and the Lua scripts take them from here
(``CONSTANTS``), and so do the scripts with the figures of ``domain/``, which they repeat.

All keys of a target begin with ``redis.prefix`` and ``kn:{target}:``. The hash tag keeps them on one node of a Cluster,
where one script can reach them. Moments are whole microseconds of Redis' clock; i is a window's number from 1, L a
level from 0 (the most urgent), T a tenant.

During a rolling update replicas of two versions share this state, each through its own scripts. So what is written
here is added to, never renamed or given another meaning; ``tests/contract/test_rolling_update.py`` holds that.
"""

import struct
from collections.abc import Iterator
from enum import StrEnum, unique
from typing import Self

from msgspec import Struct
from msgspec.structs import astuple

from knowalledge.core.context import Priority
from knowalledge.net.redis.scripts import Constant
from knowalledge.quota.domain import admission, ceiling, ledger, queue, ring
from knowalledge.quota.domain.admission import RefusalReason
from knowalledge.quota.domain.calendar import Days
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules
from knowalledge.quota.domain.window import GUARD_S, PACED_SPAN_S, SECOND, Count, Moment, Window


class _Wire(StrEnum):
    """A name on the wire, and what is behind it."""

    meaning: str

    def __new__(cls, wire: str, meaning: str) -> Self:
        member = str.__new__(cls, wire)
        member._value_ = wire
        member.meaning = meaning
        return member


@unique
class Key(_Wire):
    """Keys, after ``kn:{target}:``."""

    LEDGER = "quota", "hash: the windows' sums and the queue's counters, see Field"
    RINGS = "rings", "string: the buckets of all windows, ring after ring, a little-endian double each"
    REPLICAS = "alive", "zset: replicas by the moment at which their lease ends"
    LIVE = "live:", "hash for each replica: reservation id -> packed LiveRecord"
    WAITERS = "room", "hash: request id -> packed WaiterRecord"
    ARRIVALS = "line:", "zset for each L, and for each L:T: request ids by moment of arrival"
    SERVED = "served:", "zset for each L: tenants that wait, by the weighted tokens granted to them"
    PLACES = "crowd:", "zset for each L: tenants that wait, by their weighted number of places"
    IDLE = "idle:", "zset for each L: tenants that do not wait, by weighted tokens; bounded"
    LEFT = (
        "left:",
        "hash for each L: outcome:T -> how many waiters left so, of the tenants in SERVED and IDLE",
    )


@unique
class Field(_Wire):
    """Fields of the hash ``Key.LEDGER``."""

    EPOCH = "ep", "names this state; a replica that finds another one joins again"
    LATEST = "lt", "latest moment seen, at which the pace debts are true"
    GATE = "g", "nothing is granted before this moment"
    GATE_WINDOW = "gw", "the window that the provider named with the gate, or GATE_OF_JOIN"
    OUTPUT_RATIO = "oq", "two doubles: output tokens of recent answers, predicted and actual, decayed"
    SETTLED = "xs", "reservations settled"
    RELEASED = "xr", "reservations released"
    REJECTED = "xl", "reservations that the provider answered with 429"
    REFUSED = "xd", "requests that got neither quota nor a place"
    DRIFT_INPUT = "xi", "input tokens: actual less estimated, summed"
    DRIFT_OUTPUT = "xo", "output tokens: actual less predicted, summed"
    SINCE_AGED = "sa", "grants since the lowest level that waits had one"
    LAYOUT = "w", "the windows that this state was begun with; a replica with others is refused"
    PERIOD = "gt", "number of the period in which grants are counted"


@unique
class WindowField(_Wire):
    """Fields of the same hash, followed by i."""

    CHARGED = "t", "total of the ring, or of the calendar day"
    HELD = "h", "output held for answers that are not complete"
    NEWEST = "l", "index of the newest bucket, or the calendar day"
    PACE_DEBT = "p", "granted ahead of an even pace"
    CEILING = "c", "four doubles: learnt limit, next step, moments of the next probe and of the last cut"
    JOINED = "s", "of a long window: sum of the charges that replicas brought to this state"
    JOINED_BASE = "b", "of a long window: what the ring was given for them so far"


@unique
class LevelField(_Wire):
    """Fields of the same hash, followed by L."""

    WAITING = "n", "how many wait"
    WAITING_INPUT = "i", "input tokens that they need"
    WAITING_OUTPUT = "o", "output tokens that they need"
    LEFT = "e", "followed by an outcome too: how many waiters left so"
    GRANTS = "g", "grants in this period"
    GRANTS_BEFORE = "f", "grants in the period before"


CHANNEL = "kn:replica:"  # after the prefix; and the replica's name: messages to a replica about its waiters
# Messages are packed lists: key prefix of the target, outcome of the wait, request id, and for a grant its input,
# output and buckets.
GATE_OF_JOIN = "-"  # in the place of a window's name: a join closed the gate, not the provider
LAYOUT_MISMATCH = "OTHERWINDOWS"  # first word of the error that refuses a replica whose windows differ
EPOCH_MISMATCH = "FORGOTTEN"  # first word of the error that tells a replica to join again


# First element of the reply of ``reserve.lua``.
REPLY_GRANTED, REPLY_QUEUED, REPLY_REFUSED = range(3)


class WaiterRecord(Struct, frozen=True, array_like=True):
    """A request that waits."""

    level: int
    input: int
    output: int
    arrived: int
    replica: str
    weight: float  # of its tenant
    tenant: str


class LiveRecord(Struct, frozen=True, array_like=True):
    """A reservation that has not ended: what ends it if its replica dies."""

    input: int
    output: int
    buckets: tuple[int, ...]  # per window, the bucket of its charge
    level: int
    weight: float
    tenant: str


class LocalUsageRecord(Struct, frozen=True, array_like=True):
    """What a replica brings when it joins a state; see ``LocalUsage``."""

    charges: list[list[int]]  # per window: bucket, amount, ...
    floors: tuple[int, ...]
    limits: tuple[int, ...]
    live: list[tuple[object, ...]]  # id and the fields of its LiveRecord
    finished: tuple[str, ...]
    pending: tuple[str, ...]
    gate_us: int
    gate_window: str
    is_new: bool


class QueueConfig(Struct, frozen=True):
    """Configuration of a queue. Each level's follows, then the number of windows, then each window's."""

    capacity: int
    aging_us: float


class LevelConfig(Struct, frozen=True):
    """Configuration of a level."""

    ceiling: float  # part of each limit
    burst: float


class WindowConfig(Struct, frozen=True):
    """Configuration of a window. Flags are 0 or 1."""

    limit: int
    width_us: int  # of a bucket
    counts_requests: bool
    counts_input: bool
    counts_output: bool
    day: int  # 0: a rolling window
    day_ends_us: int
    span_us: int
    paced: bool
    learn: bool


class StoredTarget:
    """One target's keys, and its configuration as the scripts take it."""

    def __init__(
        self, name: str, windows: tuple[Window, ...], rules: QueueRules, environment: str = ""
    ) -> None:
        """``environment``: before every key, so that others can use the same Redis."""
        self.name = name
        self.windows = windows
        self.prefix = f"{environment}kn:{{{name}}}:"
        # Limits may differ during an update; what is counted, and where it is kept, may not.
        self.layout = " ".join(f"{it.count}/{it.span_s}/{it.zone}/{it.reset_s}" for it in windows)
        self.keys = (f"{self.prefix}{Key.LEDGER}".encode(), f"{self.prefix}{Key.RINGS}".encode())
        self._rules = rules
        self._days = Days(windows)
        self._packed: tuple[tuple[int, ...], bytes] = (), b""

    def at(self, now: int) -> Moment:
        """A moment (microseconds) as the windows' calendars see it."""
        return self._days.at(now)

    def config(self, at: Moment) -> bytes:
        """Little-endian doubles; packed again when a calendar day ends."""
        if self._packed[0] is not at.ends or not self._packed[1]:
            numbers = list(self._numbers(at))
            self._packed = at.ends, struct.pack(f"<{len(numbers)}d", *numbers)
        return self._packed[1]

    def _numbers(self, at: Moment) -> Iterator[float]:
        yield from astuple(QueueConfig(self._rules.capacity, self._rules.aging_s * SECOND))
        for level in Priority:
            policy = self._rules.policy(level)
            yield from astuple(LevelConfig(policy.ceiling, policy.burst))
        yield len(self.windows)
        for window, day, end in zip(self.windows, at.days, at.ends, strict=True):
            yield from astuple(
                WindowConfig(
                    limit=window.limit,
                    width_us=window.width,
                    counts_requests=window.count is Count.REQUESTS,
                    counts_input=window.count in (Count.TOKENS, Count.INPUT),
                    counts_output=window.count in (Count.TOKENS, Count.OUTPUT),
                    day=day,
                    day_ends_us=end,
                    span_us=window.span_s * SECOND,
                    paced=window.span_s <= PACED_SPAN_S,
                    learn=window.learn,
                )
            )


def _places(prefix: str, layout: type[Struct], first: int = 1) -> dict[str, Constant]:
    """The places of a layout's fields, counted as Lua counts."""
    names = layout.__struct_fields__
    return {f"{prefix}_{name.upper()}": place for place, name in enumerate(names, first)}


def _names(prefix: str, names: type[StrEnum]) -> dict[str, Constant]:
    return {f"{prefix}_{it.name}": it.value for it in names}


_LEVELS_AT = 1 + len(QueueConfig.__struct_fields__)
_LEVEL_SIZE = len(LevelConfig.__struct_fields__)
_WINDOWS_AT = _LEVELS_AT + len(Priority) * _LEVEL_SIZE

# What the scripts name in capitals.
CONSTANTS: dict[str, Constant] = {
    **_names("KEY", Key),
    **_names("FIELD", Field),
    **_names("FIELD", WindowField),
    **_names("FIELD", LevelField),
    **_names("OUTCOME", QueueOutcome),
    **_names("REASON", RefusalReason),
    **_places("WAITER", WaiterRecord),
    **_places("LIVE", LiveRecord),
    **_places("USAGE", LocalUsageRecord),
    **_places("CONFIG", QueueConfig),
    # Of the most urgent level and the first window; those of the next are a whole size later.
    **_places("LEVEL", LevelConfig, _LEVELS_AT),
    "CONFIG_WINDOWS": _WINDOWS_AT,
    **_places("WINDOW", WindowConfig, _WINDOWS_AT + 1),
    "LEVEL_SIZE": _LEVEL_SIZE,
    "WINDOW_SIZE": len(WindowConfig.__struct_fields__),
    # Of a field that each level has, where a script reads all of them.
    **{
        f"FIELD_{field.name}_{level}": f"{field}{level}"
        for field in (LevelField.WAITING, LevelField.GRANTS, LevelField.GRANTS_BEFORE)
        for level in range(len(Priority))
    },
    "REPLY_GRANTED": REPLY_GRANTED,
    "REPLY_QUEUED": REPLY_QUEUED,
    "REPLY_REFUSED": REPLY_REFUSED,
    "ALL_OUTCOMES": tuple(QueueOutcome),
    "REPLICA_CHANNEL": CHANNEL,
    "LAYOUT_MISMATCH": LAYOUT_MISMATCH,
    "GATE_OF_JOIN": GATE_OF_JOIN,
    "EPOCH_MISMATCH": EPOCH_MISMATCH,
    "LOWEST_LEVEL": int(max(Priority)),
    "SECOND_US": SECOND,
    "DAY_US": 86_400 * SECOND,
    "RING_SIZE": ring.SIZE,
    "GUARD_US": round(GUARD_S * SECOND),
    "SET_BACK_US": ledger.SET_BACK,
    "OUTPUT_DECAY": ledger.OUTPUT_DECAY,
    "LEARNT_BURST": ring.LEARNT_BURST,
    "PROBE_US": ceiling.PROBE_S * SECOND,
    "VERIFY_US": ceiling.VERIFY_S * SECOND,
    "STEP_US": ceiling.STEP_S * SECOND,
    "REPEAT_US": ceiling.REPEAT_S * SECOND,
    "CUT_FACTOR": ceiling.CUT_FACTOR,
    "CLIMB_FACTOR": ceiling.CLIMB_FACTOR,
    "LARGEST_LIMIT": ceiling.LARGEST_LIMIT,
    "AGED_EVERY": queue.AGED_EVERY,
    "REMEMBERED_TENANTS": queue.REMEMBERED_TENANTS,
    "STATS_TENANTS": queue.STATS_TENANTS,
    "PERIOD_US": queue.PERIOD,
    "MAX_SLOWDOWN": queue.MAX_SLOWDOWN,
    "SOON_US": admission.SOON,
    "BATCH_SIZE": admission.BATCH_SIZE,
}
