"""How often one request may call a provider.

Retries belong to the gateway alone: providers never retry. A request is tried again only while its caller has seen
nothing of an answer, within a budget that all requests share, and not after a timeout, which used up its time.
"""

from collections.abc import Collection

from knowalledge.core.errors import (
    ProviderError,
    ProviderRateLimited,
    ProviderTimeout,
)
from knowalledge.gateway.domain.routing import RetryBudget

# Calls of one request, the first included.
MAX_CALLS = 4


class Attempts:
    """The calls of one request so far. ``error`` is the last one's, ``excluded`` the targets not to call again."""

    __slots__ = ("_budget", "calls", "error", "excluded")

    def __init__(self, budget: RetryBudget) -> None:
        self._budget = budget
        self.calls = 0
        self.error: ProviderError | None = None
        self.excluded: Collection[str] = ()

    def begin(self) -> None:
        """Another call is wanted; the first one pays into the budget."""
        self.calls += 1
        if self.calls == 1:
            self._budget.deposit()

    def may_retry(self, target: str, error: BaseException, answer_begun: bool) -> bool:
        """Whether to call again after ``target`` failed; if so, the budget has paid for it."""
        if not isinstance(error, ProviderError):
            return False
        paid = self.calls < MAX_CALLS and self._budget.withdraw()
        if not paid or answer_begun or isinstance(error, ProviderTimeout):
            return False
        self.error = error
        if not isinstance(error, ProviderRateLimited):  # a target that is only closed may be waited for
            self.excluded = (*self.excluded, target)
        return True
