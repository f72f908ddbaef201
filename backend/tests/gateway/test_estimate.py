"""Estimates of costs: soon near the actual cost, and no caller can spoil those of another."""

from random import Random

import pytest

from knowalledge.gateway.domain import estimate
from knowalledge.gateway.domain.estimate import UNLEARNT_OUTPUT, Estimator
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.quota.domain.window import TokenCost


def words(count: int, max_output: int | None = None) -> Prompt:
    return Prompt((Message("user", (Text("word " * count),)),), max_output_tokens=max_output)


def learn(
    estimator: Estimator,
    prompt: Prompt,
    actual: TokenCost,
    tenant: str = "",
    times: int = 1,
    complete: bool = True,
) -> None:
    for _ in range(times):
        estimator.learn(estimator.estimate("m", prompt, tenant), actual, complete)


def test_a_first_answer_corrects_the_next_estimate_and_the_output_is_held_as_it_was() -> None:
    estimator = Estimator()
    assert estimator.estimate("m", words(1000)).cost.output == UNLEARNT_OUTPUT
    learn(estimator, words(1000), TokenCost(1000, 90))
    cost = estimator.estimate("m", words(2000)).cost
    assert cost.input == pytest.approx(2000, rel=0.01)
    assert 90 <= cost.output <= 90 * 1.15


def test_small_prompts_teach_nothing_about_large_ones() -> None:
    estimator = Estimator()
    learn(estimator, words(1), TokenCost(1, 5), times=50)
    assert estimator.estimate("m", words(1)).cost.input == 1
    assert estimator.estimate("m", words(9000)).cost.input > 7000


def test_an_answer_that_its_caller_cut_off_says_nothing_of_how_long_answers_are() -> None:
    estimator = Estimator()
    learn(estimator, words(100), TokenCost(100, 300), times=20)
    before = estimator.estimate("m", words(100)).cost.output
    learn(estimator, words(100, max_output=1), TokenCost(100, 1), times=200)
    learn(estimator, words(100), TokenCost(100, 2), times=200, complete=False)
    assert estimator.estimate("m", words(100)).cost.output == before
    assert estimator.estimate("m", words(100, max_output=7)).cost.output == 7


def test_a_cut_answer_that_is_longer_than_what_is_held_is_learnt_all_the_same() -> None:
    estimator = Estimator()
    learn(estimator, words(100), TokenCost(100, 50), times=20)
    learn(estimator, words(100, max_output=800), TokenCost(100, 800), times=20)
    assert estimator.estimate("m", words(100)).cost.output >= 400


def test_many_short_answers_do_not_hide_the_few_long_ones() -> None:
    estimator, dice = Estimator(), Random(1)
    lengths = [2000 if dice.random() < 0.1 else 1 for _ in range(1000)]
    for length in lengths:
        learn(estimator, words(100), TokenCost(100, length))
    assert estimator.estimate("m", words(100)).cost.output >= 0.7 * sum(lengths) / len(lengths)


def test_another_tenants_answers_do_not_move_the_estimates_of_one_that_has_its_own() -> None:
    estimator = Estimator()
    learn(estimator, words(1000), TokenCost(1000, 100), "quiet", times=5)
    learn(estimator, words(1000), TokenCost(1000, 100), "other")
    learn(estimator, words(1000), TokenCost(1000, 100), "quiet", times=10)
    before = estimator.estimate("m", words(1000), "quiet").cost
    for actual in (TokenCost(9_000_000, 9_000_000), TokenCost(1, 0)):
        learn(estimator, words(1000), actual, "loud", times=600)
        assert estimator.estimate("m", words(1000), "quiet").cost == before


def test_what_is_learnt_of_a_new_tenants_elders_is_bounded() -> None:
    estimator = Estimator()
    learn(estimator, words(1000), TokenCost(9_000_000, 9_000_000), "loud", times=600)
    cost = estimator.estimate("m", words(1000), "new").cost
    assert cost.input <= 4 * 1000
    assert cost.output <= 150_000


def test_tenants_without_number_are_remembered_up_to_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(estimate, "OWN_KEPT", 50)
    estimator = Estimator()
    for tenant in map(str, range(500)):
        learn(estimator, words(10), TokenCost(10, 10), tenant)
    assert len(estimator._own) == 50
    assert ("m", "text", "499") in estimator._own


@pytest.mark.parametrize(
    "actual",
    [TokenCost(-1, 5), TokenCost(0, 5), TokenCost(5, -1), TokenCost(10**12, 5), TokenCost(5, 10**12)],
)
def test_what_no_provider_can_have_counted_teaches_nothing(actual: TokenCost) -> None:
    estimator = Estimator()
    before = estimator.estimate("m", words(100)).cost
    learn(estimator, words(100), actual)
    assert estimator.estimate("m", words(100)).cost == before
