"""In which order the targets of a model are called, and when one is left alone."""

from collections.abc import Iterable, Mapping
from typing import Protocol, TypeVar

from knowalledge.quota.domain.window import WindowStatus

# Consecutive failures that open a breaker, and for how long; doubled each time a probe fails, up to the maximum.
FAILURES_TO_OPEN = 5
OPEN_S = 5.0
MAX_OPEN_S = 60.0


class Ranked(Protocol):
    """What the order of targets depends on, besides their headroom."""

    @property
    def name(self) -> str: ...

    @property
    def tier(self) -> int: ...


T = TypeVar("T", bound=Ranked)


def headroom(windows: Iterable[WindowStatus]) -> float:
    """The free share of the fullest window, 0 to 1; 1 where nothing limits."""
    return min((max(0.0, 1 - it.used / it.limit) for it in windows), default=1.0)


def rank(targets: Iterable[T], headroom: Mapping[str, float]) -> list[T]:
    """Lower tiers first; within a tier the most headroom first; equal ones by name, so that replicas agree.

    ``headroom`` is by target, 1 for those that are not in it; differences under 1% do not count.
    """
    return sorted(targets, key=lambda it: (it.tier, -round(headroom.get(it.name, 1.0), 2), it.name))


class RetryBudget:
    """Retries are a share of the calls: when everything fails, trying everything again makes it worse.

    Share and reserve are half of those of Finagle's RetryBudget: each retry costs a provider's quota.
    """

    __slots__ = ("_balance",)

    SHARE, RESERVE = 0.1, 10.0

    def __init__(self) -> None:
        self._balance = self.RESERVE

    def deposit(self) -> None:
        """A request makes its first call."""
        self._balance = min(self.RESERVE, self._balance + self.SHARE)

    def withdraw(self) -> bool:
        """Whether there was a retry left; it is then paid for."""
        if self._balance < 1:
            return False
        self._balance -= 1
        return True


class Breaker:
    """Keeps calls from a target that keeps failing, and lets one probe through after each rest.

    A 429 is no failure: the target works, its quota is spent. A failure that a caller's prompt may have caused (a 500,
    a response that cannot be read, the caller's own short deadline) never closes the target for other callers: after
    several in a row it is only called after all others. ``now`` is in seconds, of any clock that never goes back.
    """

    __slots__ = ("_failures", "_open_until", "_probing", "_rest_s", "_suspected_until", "_suspicions")

    def __init__(self) -> None:
        self._failures = 0
        self._open_until = 0.0
        self._rest_s = OPEN_S
        self._probing = False
        self._suspicions = 0
        self._suspected_until = 0.0

    def is_suspected(self, now: float) -> bool:
        """Whether other targets are to be called first, after failures that may be the callers' own."""
        return self._suspicions >= FAILURES_TO_OPEN and now < self._suspected_until

    def rest_s(self, now: float) -> float:
        """Seconds until the target may be called; 0: now. During a probe all others rest."""
        if self._failures < FAILURES_TO_OPEN:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        return self._rest_s if self._probing else 0.0

    def record_call(self, now: float) -> None:
        """A call begins; it is the probe if the breaker is open."""
        if self._failures >= FAILURES_TO_OPEN and now >= self._open_until:
            self._probing = True

    def record_success(self) -> None:
        """The call showed that the target works."""
        self._failures, self._rest_s, self._probing = 0, OPEN_S, False
        self._suspicions = 0

    def record_suspicion(self, now: float) -> None:
        """The call failed, by the target's fault or by its prompt's: the failure does not tell."""
        self._probing = False
        self._suspicions += 1
        self._suspected_until = now + OPEN_S

    def record_failure(self, now: float) -> None:
        """The call failed by the target's fault."""
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN:
            if self._probing:
                self._rest_s = min(MAX_OPEN_S, self._rest_s * 2)
            self._probing = False
            self._open_until = now + self._rest_s

    def record_abandoned(self) -> None:
        """The call ended without showing anything about the target: the client left, say."""
        self._probing = False
