"""Which targets may be called now, and in which order: a choice without effects."""

from collections.abc import Collection, Mapping

from msgspec import Struct

from knowalledge.gateway.domain.estimate import Estimate
from knowalledge.gateway.domain.routing import Breaker, rank
from knowalledge.gateway.service.catalog import ModelRoutes, Target


class Candidate(Struct, frozen=True):
    """A target that may be called, what the call is estimated to cost, and the state that ranked it."""

    model: str
    target: Target
    estimate: Estimate
    headroom: float  # 0: the quota is spent; 1: untouched

    @property
    def reason(self) -> str:
        """Why this target, for the answer and the traces."""
        return f"tier {self.target.tier}, headroom {self.headroom:.0%}"


def candidates(
    routes: ModelRoutes,
    estimate: Estimate,
    excluded: Collection[str],
    breakers: Mapping[str, Breaker],
    headroom: Mapping[str, float],
    now: float,
) -> tuple[list[Candidate], float]:
    """The targets of a model that are neither excluded nor resting, best first; suspected ones after all others.

    The second value is the seconds until the first resting one may be called; infinite if none rests. ``headroom`` is
    1 for a target that is not in it; ``now`` is monotonic.
    """
    eligible: list[Candidate] = []
    suspected: list[Candidate] = []
    rest_s = float("inf")
    for target in rank(routes.targets, headroom):
        if target.name in excluded:
            continue
        breaker = breakers[target.name]
        resting_s = breaker.rest_s(now)
        if resting_s > 0:
            rest_s = min(rest_s, resting_s)
        else:
            chosen = suspected if breaker.is_suspected(now) else eligible
            chosen.append(Candidate(routes.name, target, estimate, headroom.get(target.name, 1.0)))
    return eligible + suspected, rest_s
