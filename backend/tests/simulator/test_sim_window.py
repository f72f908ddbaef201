"""The judge's own arithmetic: exact windows under an injected clock."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowalledge_simulator.window import Limits, Quota, Refusal, Window


def quota(**limits: int) -> Quota:
    return Quota(Limits(**limits), 60.0, 86_400.0, output_counts=True)


def test_a_charge_counts_until_one_span_later_and_not_at_it() -> None:
    window = Window(60.0)
    window.add(100.0, 5, 10)
    assert window.used(159.999) == 5
    assert window.used(160.0) == 0


def test_a_full_minute_admits_again_exactly_when_its_first_request_leaves() -> None:
    it = quota(rpm=3)
    assert [it.admit(at, 1) for at in (0.0, 10.0, 59.0)] == [None, None, None]
    assert it.admit(59.999, 1) == Refusal("rpm", 3, 3, pytest.approx(0.001))
    assert it.admit(60.0, 1) is None
    assert it.admit(69.999, 1) is not None
    assert it.admit(70.0, 1) is None


def test_a_minute_is_no_fixed_one_so_a_burst_over_the_edge_is_refused() -> None:
    it = quota(rpm=10)
    for _ in range(10):
        assert it.admit(59.9, 1) is None
    assert it.admit(60.1, 1) is not None


def test_input_that_just_fits_is_admitted_and_one_token_more_is_not() -> None:
    assert quota(tpm=100).admit(0.0, 100) is None
    assert quota(tpm=100).admit(0.0, 101) is not None


def test_output_is_charged_at_completion_even_beyond_the_limit_and_closes_the_window() -> None:
    it = quota(tpm=100)
    assert it.admit(0.0, 60) is None
    it.complete(30.0, 80)
    refusal = it.admit(59.9, 1)
    assert refusal is not None
    assert (refusal.window, refusal.used) == ("tpm", 140)
    assert it.admit(60.0, 20) is None  # the input has left, the output has not
    assert it.admit(60.0, 1) is not None
    assert it.admit(90.0, 60) is None


def test_output_is_not_counted_where_only_input_is() -> None:
    it = Quota(Limits(tpm=100), 60.0, 86_400.0, output_counts=False)
    it.admit(0.0, 60)
    it.complete(1.0, 1000)
    assert it.admit(2.0, 40) is None


def test_a_refused_request_is_charged_nowhere() -> None:
    it = quota(rpm=10, tpm=100)
    assert it.admit(0.0, 101) is not None
    assert it.windows["rpm"].used(0.0) == 0


def test_the_refusal_names_the_window_that_keeps_longest() -> None:
    it = quota(rpm=1, rpd=1)
    it.admit(0.0, 1)
    assert it.admit(1.0, 1) == Refusal("rpd", 1, 1, pytest.approx(86_399.0))


def test_a_request_larger_than_the_limit_is_always_told_a_whole_span() -> None:
    assert quota(tpm=10).admit(0.0, 11) == Refusal("tpm", 10, 0, 60.0)


def test_the_peak_is_the_most_that_a_window_held_and_its_share_of_the_limit_then() -> None:
    it = quota(rpm=10)
    for at in (0.0, 1.0, 2.0, 61.5, 62.5):
        it.admit(at, 1)
    window = it.windows["rpm"]
    assert (window.peak, window.peak_share) == (3, 0.3)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 60)), max_size=60), st.integers(0, 2**32))
def test_against_a_count_from_scratch_no_window_is_ever_misjudged(
    steps: list[tuple[float, int]], seed: int
) -> None:
    it, dice = quota(rpm=7, tpm=200), random.Random(seed)
    admitted: list[float] = []
    tokens: list[tuple[float, int]] = []
    now = 0.0
    for pause, amount in steps:
        now += pause
        if tokens and dice.random() < 0.3:
            it.complete(now, amount)
            tokens.append((now, amount))
            continue
        requests = sum(now < at + 60.0 for at in admitted)
        spent = sum(charged for at, charged in tokens if now < at + 60.0)
        fits = requests + 1 <= 7 and spent + amount <= 200
        refusal = it.admit(now, amount)
        assert (refusal is None) == fits
        if fits:
            admitted.append(now)
            tokens.append((now, amount))
        elif amount <= 200:
            assert refusal is not None
            assert quota_after(it, now + refusal.wait_s + 1e-6, amount)


def quota_after(it: Quota, at: float, amount: int) -> bool:
    """Whether the request would fit at ``at``, looking only."""
    rpm = sum(moment + 60.0 > at for moment, _ in it.windows["rpm"]._charges)
    tpm = sum(charged for moment, charged in it.windows["tpm"]._charges if moment + 60.0 > at)
    return rpm + 1 <= 7 and tpm + amount <= 200
