"""The choice of a target, and whether a failed request may be tried again: without clock or network."""

from typing import Any

import pytest

from knowalledge.core import errors
from knowalledge.gateway.domain.estimate import Estimate
from knowalledge.gateway.domain.routing import FAILURES_TO_OPEN, MAX_OPEN_S, OPEN_S, Breaker, RetryBudget
from knowalledge.gateway.service.attempts import MAX_CALLS, Attempts
from knowalledge.gateway.service.catalog import ModelCatalog, ModelRoutes, Target
from knowalledge.gateway.service.selection import candidates
from knowalledge.quota.domain.window import TokenCost

ESTIMATE = Estimate(TokenCost(1, 1), "m", "text", 1.0)
NO_PROVIDER: Any = None


def routes(**tiers: int) -> ModelRoutes:
    return ModelRoutes("m", tuple(Target(name, tier, NO_PROVIDER) for name, tier in tiers.items()))


def names(
    given: ModelRoutes, excluded: tuple[str, ...] = (), now: float = 0.0, **headroom: float
) -> list[str]:
    breakers = {it.name: Breaker() for it in given.targets}
    found, _ = candidates(given, ESTIMATE, excluded, breakers, headroom, now)
    return [it.target.name for it in found]


def test_a_lower_tier_goes_first_then_more_headroom_then_the_name() -> None:
    given = routes(b=0, a=0, paid=1, full=0)
    assert names(given, full=0.1, paid=1.0) == ["a", "b", "full", "paid"]
    assert names(given, a=0.501, b=0.504) == ["full", "a", "b", "paid"]


def test_an_excluded_target_is_no_candidate() -> None:
    assert names(routes(a=0, b=0), excluded=("a",)) == ["b"]


def test_a_resting_target_is_no_candidate_and_the_soonest_end_of_a_rest_is_known() -> None:
    given = routes(a=0, b=0, c=0)
    breakers = {name: Breaker() for name in "abc"}
    for name, now in (("a", 2.0), ("b", 3.0)):
        for _ in range(FAILURES_TO_OPEN):
            breakers[name].record_failure(now)
    found, rest_s = candidates(given, ESTIMATE, (), breakers, {}, 4.0)
    assert [it.target.name for it in found] == ["c"]
    assert rest_s == 2.0 + OPEN_S - 4.0


def test_an_open_breaker_lets_one_probe_through_and_rests_longer_after_each_failure() -> None:
    breaker, now = Breaker(), 0.0
    for _ in range(FAILURES_TO_OPEN):
        breaker.record_failure(now)
    rests = []
    for _ in range(6):
        rests.append(breaker.rest_s(now))
        now += breaker.rest_s(now)
        assert breaker.rest_s(now) == 0.0
        breaker.record_call(now)
        assert breaker.rest_s(now) > 0.0  # for all but the probe
        breaker.record_failure(now)
    assert rests == [5.0, 10.0, 20.0, 40.0, MAX_OPEN_S, MAX_OPEN_S]
    breaker.record_success()
    assert breaker.rest_s(now) == 0.0


def test_an_unknown_model_is_told_the_nearest_name_and_has_no_label_of_its_own() -> None:
    catalog = ModelCatalog({"gemini-flash": routes(a=0), "gemini-pro": routes(b=0)}, "gemini-pro")
    with pytest.raises(errors.UnknownModel, match="'gemini-flash'"):
        catalog.resolve("gemini-flsh")
    assert (catalog.label("x" * 999), catalog.label(""), catalog.label("gemini-flash")) == (
        "unknown",
        "gemini-pro",
        "gemini-flash",
    )


def attempts() -> Attempts:
    made = Attempts(RetryBudget())
    made.begin()
    return made


@pytest.mark.parametrize(
    ("error", "begun", "retried", "excluded"),
    [
        (errors.ProviderUnavailable("x"), False, True, ("t",)),
        (errors.ProviderGarbage("x"), False, True, ("t",)),
        (errors.ProviderAuth("x"), False, True, ("t",)),
        (errors.ProviderRateLimited("x"), False, True, ()),
        (errors.ProviderUnavailable("x"), True, False, ()),
        (errors.ProviderRateLimited("x"), True, False, ()),
        (errors.ProviderTimeout("x"), False, False, ()),
        (errors.ProviderRejected("x"), False, False, ()),
        (errors.ContentBlocked("x"), False, False, ()),
        (errors.ClientGone("x"), False, False, ()),
        (GeneratorExit(), False, False, ()),
        (ValueError("x"), False, False, ()),
    ],
)
def test_only_a_providers_failure_before_the_first_content_is_tried_again(
    error: BaseException, begun: bool, retried: bool, excluded: tuple[str, ...]
) -> None:
    made = attempts()
    assert made.may_retry("t", error, begun) is retried
    assert made.excluded == excluded
    assert made.error is (error if retried else None)


def test_a_request_is_called_no_more_often_than_the_maximum() -> None:
    made, calls = attempts(), 1
    while made.may_retry("t", errors.ProviderRateLimited("x"), False):
        made.begin()
        calls += 1
    assert calls == MAX_CALLS
