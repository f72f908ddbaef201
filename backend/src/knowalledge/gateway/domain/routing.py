"""Which target to ask, and when to leave one alone."""

from collections.abc import Iterable

from msgspec import Struct

from knowalledge.quota.domain.window import WindowStatus

# Consecutive failures that open a breaker, and for how long; doubled each time a probe fails, up to the ceiling.
FAILURES_TO_OPEN = 5
OPEN_S = 5.0
OPEN_CEILING_S = 60.0


class Candidate(Struct, frozen=True):
    """A target as the router sees it."""

    name: str
    tier: int
    headroom: float  # 0 full .. 1 empty


def headroom(levels: Iterable[WindowStatus]) -> float:
    """The free share of the fullest window; 1 where nothing limits."""
    return min((max(0.0, 1 - level.used / level.limit) for level in levels), default=1.0)


def order(candidates: Iterable[Candidate]) -> tuple[Candidate, ...]:
    """Lower tiers first; within a tier the emptiest first; by name where equal, so that replicas agree."""
    return tuple(sorted(candidates, key=lambda it: (it.tier, -round(it.headroom, 2), it.name)))


class RetryBudget:
    """Retries are a share of the calls: when everything fails, trying everything again makes it worse.

    The share and the reserve are those of Finagle's RetryBudget, halved: a provider's quota pays for each.
    """

    __slots__ = ("_saved",)

    SHARE, RESERVE = 0.1, 10.0

    def __init__(self) -> None:
        self._saved = self.RESERVE

    def called(self) -> None:
        """A request's first call."""
        self._saved = min(self.RESERVE, self._saved + self.SHARE)

    def take(self) -> bool:
        """Whether one retry is left; it is then taken."""
        if self._saved < 1:
            return False
        self._saved -= 1
        return True


class Breaker:
    """Stops asking a target that keeps failing, and lets one probe through when its rest is over.

    A 429 is not a failure: the target works, its quota is spent. Time is an argument, in seconds.
    """

    __slots__ = ("_failures", "_open_until", "_probing", "_rest")

    def __init__(self) -> None:
        self._failures = 0
        self._open_until = 0.0
        self._rest = OPEN_S
        self._probing = False

    def wait(self, now: float) -> float:
        """Seconds until it may be asked; 0: now. While a probe is under way, the others wait on."""
        if self._failures < FAILURES_TO_OPEN:
            return 0.0
        if now < self._open_until:
            return self._open_until - now
        return self._rest if self._probing else 0.0

    def asked(self, now: float) -> None:
        if self._failures >= FAILURES_TO_OPEN and now >= self._open_until:
            self._probing = True

    def succeeded(self) -> None:
        self._failures, self._rest, self._probing = 0, OPEN_S, False

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._failures >= FAILURES_TO_OPEN:
            if self._probing:
                self._rest = min(OPEN_CEILING_S, self._rest * 2)
            self._probing = False
            self._open_until = now + self._rest

    def left(self) -> None:
        """The call ended without telling anything about the target (the client went away)."""
        self._probing = False
