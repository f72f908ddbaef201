"""The simulator's exact windows, under an injected clock."""

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from knowalledge_simulator.window import Limits, Quota, Rejection, Window


def quota(**limits: int) -> Quota:
    return Quota(Limits(**limits), 60.0, 86_400.0, output_counts=True)


def test_a_charge_counts_up_to_but_not_at_the_end_of_its_span() -> None:
    window = Window(60.0)
    window.add(100.0, 5, 10)
    assert window.used(159.999) == 5
    assert window.used(160.0) == 0


def test_a_full_minute_admits_again_exactly_when_its_first_request_leaves_the_window() -> None:
    tested = quota(rpm=3)
    assert [tested.admit(at, 1) for at in (0.0, 10.0, 59.0)] == [None, None, None]
    wait: Any = pytest.approx(0.001)
    assert tested.admit(59.999, 1) == Rejection("rpm", 3, 3, wait)
    assert tested.admit(60.0, 1) is None
    assert tested.admit(69.999, 1) is not None
    assert tested.admit(70.0, 1) is None


def test_a_minute_slides_so_a_burst_across_a_boundary_is_rejected() -> None:
    tested = quota(rpm=10)
    for _ in range(10):
        assert tested.admit(59.9, 1) is None
    assert tested.admit(60.1, 1) is not None


def test_input_up_to_the_limit_is_admitted_and_one_token_more_is_not() -> None:
    assert quota(tpm=100).admit(0.0, 100) is None
    assert quota(tpm=100).admit(0.0, 101) is not None


def test_output_is_charged_at_completion_even_beyond_the_limit_and_then_blocks_the_window() -> None:
    tested = quota(tpm=100)
    assert tested.admit(0.0, 60) is None
    tested.complete(30.0, 80)
    rejection = tested.admit(59.9, 1)
    assert rejection is not None
    assert (rejection.window, rejection.used) == ("tpm", 140)
    assert tested.admit(60.0, 20) is None  # the input has left, the output has not
    assert tested.admit(60.0, 1) is not None
    assert tested.admit(90.0, 60) is None


def test_output_is_not_charged_if_only_input_counts() -> None:
    tested = Quota(Limits(tpm=100), 60.0, 86_400.0, output_counts=False)
    tested.admit(0.0, 60)
    tested.complete(1.0, 1000)
    assert tested.admit(2.0, 40) is None


def test_a_rejected_request_is_charged_to_no_window() -> None:
    tested = quota(rpm=10, tpm=100)
    assert tested.admit(0.0, 101) is not None
    assert tested.windows["rpm"].used(0.0) == 0


def test_a_rejection_names_the_window_with_the_longest_wait() -> None:
    tested = quota(rpm=1, rpd=1)
    tested.admit(0.0, 1)
    wait: Any = pytest.approx(86_399.0)
    assert tested.admit(1.0, 1) == Rejection("rpd", 1, 1, wait)


def test_a_request_above_the_limit_has_to_wait_a_whole_span() -> None:
    assert quota(tpm=10).admit(0.0, 11) == Rejection("tpm", 10, 0, 60.0)


def test_the_peak_is_the_highest_use_with_its_share_of_the_limit_at_the_time() -> None:
    tested = quota(rpm=10)
    for at in (0.0, 1.0, 2.0, 61.5, 62.5):
        tested.admit(at, 1)
    window = tested.windows["rpm"]
    assert (window.peak, window.peak_share) == (3, 0.3)


@given(st.lists(st.tuples(st.floats(0, 30), st.integers(1, 60)), max_size=60), st.integers(0, 2**32))
def test_every_decision_agrees_with_a_count_from_scratch(steps: list[tuple[float, int]], seed: int) -> None:
    tested, rng = quota(rpm=7, tpm=200), random.Random(seed)
    admitted: list[float] = []
    tokens: list[tuple[float, int]] = []
    now = 0.0
    for pause, amount in steps:
        now += pause
        if tokens and rng.random() < 0.3:
            tested.complete(now, amount)
            tokens.append((now, amount))
            continue
        requests = sum(now < at + 60.0 for at in admitted)
        spent = sum(charged for at, charged in tokens if now < at + 60.0)
        fits = requests + 1 <= 7 and spent + amount <= 200
        rejection = tested.admit(now, amount)
        assert (rejection is None) == fits
        if fits:
            admitted.append(now)
            tokens.append((now, amount))
        elif amount <= 200:
            assert rejection is not None
            assert fits_at(tested, now + rejection.wait_s + 1e-6, amount)


def fits_at(tested: Quota, at: float, amount: int) -> bool:
    """Whether a request would fit at ``at``; charges nothing."""
    rpm = sum(moment + 60.0 > at for moment, _ in tested.windows["rpm"]._charges)
    tpm = sum(charged for moment, charged in tested.windows["tpm"]._charges if moment + 60.0 > at)
    return rpm + 1 <= 7 and tpm + amount <= 200
