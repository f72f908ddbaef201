"""What every request is executed with, and the values that the steps of an execution pass on."""

from collections.abc import Callable, Collection, Mapping

from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.context import RequestContext
from knowalledge.gateway.domain.answer import Usage
from knowalledge.gateway.domain.estimate import Estimate, Estimator
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.gateway.domain.routing import Breaker, RetryBudget
from knowalledge.gateway.ports import Telemetry
from knowalledge.gateway.service.catalog import ModelCatalog, ModelRoutes, Target
from knowalledge.gateway.service.selection import Candidate, candidates
from knowalledge.quota.ports import Granted, QuotaStore


class Dispatcher(Struct, frozen=True):
    """The models, their quota, and what this process has learnt of its targets. One per process."""

    catalog: ModelCatalog
    quota: QuotaStore
    clock: Clock
    new_id: Callable[[], str]
    telemetry: Telemetry
    timeout_s: float  # of a request that brings no deadline
    patience_s: float  # the longest wait in a queue
    retry_budget: RetryBudget
    estimator: Estimator
    breakers: Mapping[str, Breaker]  # by target
    headroom: dict[str, float]  # by target, as of its last decision

    def candidates(
        self, routes: ModelRoutes, context: RequestContext, prompt: Prompt, excluded: Collection[str]
    ) -> tuple[list[Candidate], float]:
        """A model's targets that may be called now, best first, and the seconds until one that rests may be."""
        estimate = self.estimator.estimate(routes.name, prompt, context.principal.tenant)
        now = self.clock.monotonic()
        source = prompt.source
        if source is not None and source.untranslatable[0]:
            others = (it.name for it in routes.targets if it.dialect != source.dialect)
            excluded = (*excluded, *others)
        return candidates(routes, estimate, excluded, self.breakers, self.headroom, now)


class ProviderCall(Struct, frozen=True):
    """One call of a target, with its quota in hand."""

    model: str
    target: Target
    estimate: Estimate
    granted: Granted
    reason: str  # why this target
    began: float  # monotonic
    timeout_s: float  # until the request's deadline


class Progress(Struct, frozen=True):
    """What had come of an answer when its call ended. ``usage`` is the provider's last count, if it gave one."""

    text: str = ""
    usage: Usage | None = None
    first_token_at: float = 0.0  # monotonic; 0: there was no content yet


NO_PROGRESS = Progress()
