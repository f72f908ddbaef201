"""The W3C trace context, read as its specification has it."""

import pytest

from knowalledge.core.trace_context import UNTRACED, Parent, is_sampled, parent_of

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.mark.parametrize(
    ("field", "sampled"),
    [
        (f"00-{TRACE}-{SPAN}-01", True),
        (f"00-{TRACE}-{SPAN}-00", False),
        (f"00-{TRACE}-{SPAN}-ff", True),
        (f"00-{TRACE}-{SPAN}-02", False),
        (f"cc-{TRACE}-{SPAN}-01", True),  # a later version: what is known counts
        (f"cc-{TRACE}-{SPAN}-01-what-will-be", True),
    ],
)
def test_a_context_is_continued_with_its_callers_choice(field: str, sampled: bool) -> None:
    assert parent_of(field) == Parent(TRACE, SPAN, sampled)


@pytest.mark.parametrize(
    "field",
    [
        "",
        "00",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01-more",  # version 00 has no more
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[:-1]}-{SPAN}-01",
        f" 00-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01\n",
        f"00-{TRACE}-{SPAN}-01, 00-{TRACE}-{SPAN}-01",
        f"00-{'٣' * 32}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.x",
        "0" * 100_000,
    ],
)
def test_a_context_that_is_malformed_is_no_context(field: str) -> None:
    assert parent_of(field) is None


def test_a_share_of_the_traces_is_drawn_and_everybody_draws_the_same() -> None:
    ids = [int(f"{'f' * 18}{number:014x}", 16) for number in range(0, 16**14, 16**14 // 1000)]
    assert sum(is_sampled(it, 0.25) for it in ids) == pytest.approx(250, abs=1)
    assert not any(is_sampled(it, 0) for it in ids)
    assert all(is_sampled(it, 1) for it in [*ids, 2**128 - 1])


def test_a_request_that_is_not_traced_takes_steps_for_nothing_and_has_no_id() -> None:
    UNTRACED.add_step("cache", 0.0, {})
    UNTRACED.add_call("provider", 0.0, "t", {}, "error")
    UNTRACED.describe({}, "", False)
    assert (UNTRACED.live, UNTRACED.id) == (False, "")
