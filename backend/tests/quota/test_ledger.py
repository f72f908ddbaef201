"""The ledger of one target, driven by an injected clock."""

from collections import deque
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec import Struct

from knowalledge.core.errors import NeverFits
from knowalledge.quota.domain.calendar import Days, day_at, moment_of
from knowalledge.quota.domain.ledger import Charge, Ledger, Shortage
from knowalledge.quota.domain.ring import SIZE
from knowalledge.quota.domain.window import (
    GUARD_S,
    SECOND,
    Backlog,
    Count,
    LevelPolicy,
    Moment,
    TokenCost,
    Window,
    WindowStatus,
    cap_output,
    raise_if_never_fits,
)
from tests.support.properties import examples

RPM = Window("rpm", Count.REQUESTS, 10, 60)
TPM = Window("tpm", Count.TOKENS, 1000, 60)


def us(seconds: float) -> int:
    return round(seconds * SECOND)


def reserve(ledger: Ledger, now: float, cost: TokenCost) -> Charge | Shortage:
    return ledger.reserve(moment_of(ledger.windows, us(now)), cost)


def charged(ledger: Ledger, now: float, cost: TokenCost) -> Charge:
    result = reserve(ledger, now, cost)
    assert isinstance(result, Charge), result
    return result


def short(ledger: Ledger, now: float, cost: TokenCost) -> Shortage:
    result = reserve(ledger, now, cost)
    assert isinstance(result, Shortage), result
    return result


def fits(ledger: Ledger, now: float, cost: TokenCost) -> bool:
    return isinstance(reserve(ledger, now, cost), Charge)


def settle(ledger: Ledger, now: float, charge: Charge, actual: TokenCost) -> None:
    ledger.settle(moment_of(ledger.windows, us(now)), charge, actual)


def used(ledger: Ledger, now: float) -> list[int]:
    return [it.used for it in ledger.window_status(moment_of(ledger.windows, us(now)))]


def test_a_window_grants_its_limit_and_not_one_more() -> None:
    ledger = Ledger((RPM,))
    granted = [fits(ledger, 1000.0, TokenCost(1, 1)) for _ in range(12)]
    assert granted == [True] * 10 + [False] * 2


def test_a_refusal_says_when_there_is_room_and_then_there_is() -> None:
    ledger = Ledger((RPM,))
    for _ in range(10):
        reserve(ledger, 1000.0, TokenCost(1, 1))
    refused = short(ledger, 1000.0, TokenCost(1, 1))
    assert refused.window == "rpm"
    assert not fits(ledger, 1000.0 + refused.wait_s - 0.01, TokenCost(1, 1))
    assert fits(ledger, 1000.0 + refused.wait_s, TokenCost(1, 1))


def test_a_charge_is_kept_until_its_whole_bucket_and_the_guard_are_out() -> None:
    ledger = Ledger((RPM,))
    reserve(ledger, 1000.0, TokenCost(1, 1))
    assert used(ledger, 1060.0 + GUARD_S - 0.001) == [1]
    assert used(ledger, 1060.0 + GUARD_S + RPM.width / SECOND) == [0]


def test_output_is_kept_a_window_from_when_it_was_told_but_not_the_guard_longer() -> None:
    ledger = Ledger((TPM,))
    settle(ledger, 1010.0, charged(ledger, 1000.0, TokenCost(0, 9)), TokenCost(0, 5))
    assert used(ledger, 1070.0) == [5]
    assert used(ledger, 1070.0 + GUARD_S) == [0]


def test_every_window_is_charged_or_none() -> None:
    ledger = Ledger((RPM, TPM))
    assert fits(ledger, 0.0, TokenCost(900, 50))
    assert short(ledger, 0.0, TokenCost(100, 50)).window == "tpm"
    assert used(ledger, 0.0) == [1, 950]


def test_predicted_output_is_held_and_true_output_is_charged_when_it_is_complete() -> None:
    ledger = Ledger((TPM,))
    charge = charged(ledger, 0.0, TokenCost(100, 400))
    assert used(ledger, 59.0) == [500]
    settle(ledger, 59.0, charge, TokenCost(120, 30))
    assert used(ledger, 59.0) == [150]
    assert used(ledger, 61.0) == [30]  # the input's bucket is out, the output's is not
    assert used(ledger, 120.0) == [0]


def test_an_input_window_ignores_output() -> None:
    ledger = Ledger((Window("itpm", Count.INPUT, 100, 60),))
    charge = charged(ledger, 0.0, TokenCost(60, 10_000))
    settle(ledger, 1.0, charge, TokenCost(50, 9_000))
    assert used(ledger, 1.0) == [50]


def test_release_leaves_nothing_behind() -> None:
    ledger = Ledger((RPM, TPM))
    charge = charged(ledger, 5.0, TokenCost(100, 100))
    ledger.release(moment_of(ledger.windows, us(7.0)), charge)
    assert used(ledger, 7.0) == [0, 0]


def test_settling_after_the_window_has_passed_corrects_nothing_old() -> None:
    ledger = Ledger((TPM,))
    charge = charged(ledger, 0.0, TokenCost(500, 100))
    settle(ledger, 500.0, charge, TokenCost(10, 7))
    assert used(ledger, 500.0) == [7]


def test_a_clock_that_steps_backwards_frees_nothing() -> None:
    ledger = Ledger((RPM,))
    for _ in range(10):
        reserve(ledger, 1000.0, TokenCost(1, 1))
    assert not fits(ledger, 900.0, TokenCost(1, 1))
    assert used(ledger, 1000.0) == [10]


def test_a_gate_refuses_everything_until_its_moment_and_ends_by_itself() -> None:
    ledger = Ledger((RPM,))
    ledger.close_gate(us(1033.0), "rpm")
    ledger.close_gate(us(1010.0), "rpm")
    assert short(ledger, 1000.0, TokenCost(1, 1)).wait_s == pytest.approx(33.0)
    assert fits(ledger, 1033.0, TokenCost(1, 1))


def test_a_prediction_is_cut_to_what_can_fit_so_that_a_first_request_is_never_refused() -> None:
    ledger = Ledger((TPM,))
    assert cap_output((TPM,), TokenCost(900, 5000)) == TokenCost(900, 100)
    assert fits(ledger, 0.0, cap_output((TPM,), TokenCost(1000, 5000)))


def test_a_prediction_is_not_cut_by_what_does_not_hold_it_nor_by_a_limit_that_is_only_learnt() -> None:
    learnt = Window("tpm", Count.TOKENS, 1000, 60, learn=True)
    inputs = Window("itpm", Count.INPUT, 1000, 60)
    assert cap_output((RPM, inputs, learnt), TokenCost(900, 5000)) == TokenCost(900, 5000)


def test_a_request_larger_than_a_window_is_told_so() -> None:
    with pytest.raises(NeverFits, match="1000 tokens in 60 s"):
        raise_if_never_fits("us", (RPM, TPM), TokenCost(1001, 0))


def test_a_calendar_day_ends_at_midnight_in_its_zone() -> None:
    rpd = Window("rpd", Count.REQUESTS, 1, 86_400, zone="America/Los_Angeles")
    ledger = Ledger((rpd,))
    before = datetime(2026, 11, 21, 7, 59, 59, tzinfo=UTC).timestamp()
    assert fits(ledger, before - 3600, TokenCost(1, 1))
    refused = short(ledger, before, TokenCost(1, 1))
    assert refused.wait_s == pytest.approx(1.0)
    assert fits(ledger, before + 1, TokenCost(1, 1))


@pytest.mark.parametrize(
    ("noon", "hours"),
    [((2026, 3, 8), 23), ((2026, 11, 1), 25), ((2026, 7, 1), 24)],
)
def test_days_on_which_the_clocks_change_have_their_true_length(
    noon: tuple[int, int, int], hours: int
) -> None:
    moment = datetime(*noon, 20, tzinfo=UTC).timestamp()
    day, end = day_at(moment, "America/Los_Angeles", 0)
    earlier, start = day_at(moment - 86_400, "America/Los_Angeles", 0)
    assert day == earlier + 1
    assert end - start == hours * 3600


DAY = Window("rpd", Count.REQUESTS, 10, 86_400, zone="America/Los_Angeles")
NEW_YEAR = datetime(2026, 1, 1, 8, tzinfo=UTC).timestamp()  # midnight in Los Angeles


@given(st.lists(st.integers(-3 * 86_400, 3 * 86_400), min_size=1, max_size=20))
def test_days_that_are_remembered_are_those_that_are_looked_up_also_when_the_clock_steps_back(
    steps: list[int],
) -> None:
    days, now = Days((RPM, DAY)), us(NEW_YEAR)
    for step in steps:
        now += us(step)
        assert days.at(now) == moment_of((RPM, DAY), now)


def test_a_day_is_over_at_its_last_microsecond() -> None:
    days, midnight = Days((RPM, DAY)), us(NEW_YEAR)
    last, first = days.at(midnight - 1), days.at(midnight)
    assert first.days[1] == last.days[1] + 1
    assert last.ends[1] == midnight


def at(ledger: Ledger, now: float) -> Moment:
    return moment_of(ledger.windows, us(now))


def test_a_lane_with_a_share_leaves_the_rest_to_others() -> None:
    ledger = Ledger((RPM,))
    low = LevelPolicy(ceiling=0.8)
    granted = [isinstance(ledger.reserve(at(ledger, 0.0), TokenCost(1, 0), low), Charge) for _ in range(10)]
    assert granted.count(True) == 8
    assert fits(ledger, 0.0, TokenCost(1, 0))


@pytest.mark.parametrize("late", [-1, 0, 1])
def test_a_correction_of_a_bucket_counts_as_long_as_the_bucket_does(late: int) -> None:
    ledger = Ledger((TPM,))
    first = charged(ledger, 6000.0, TokenCost(100, 0))
    out = us(6000.0) // TPM.width * TPM.width + SIZE * TPM.width  # the microsecond at which the charge is out
    then = moment_of(ledger.windows, out + late)
    ledger.settle(then, first, TokenCost(40, 0))
    assert ledger.window_status(then)[0].used == (40 if late < 0 else 0)
    assert ledger.rings[0].by_bucket() == ({first.buckets[0]: 40} if late < 0 else {})
    assert ledger.window_status(moment_of(ledger.windows, out + us(70)))[0].used == 0


def test_more_than_a_day_allows_waits_for_as_many_days_as_it_fills() -> None:
    ledger, cost = Ledger((DAY,)), TokenCost(0, 0)
    ledger.charge(at(ledger, NEW_YEAR), cost)
    waits = [
        ledger.wait(at(ledger, NEW_YEAR + 3600), cost, backlog=Backlog(count, cost))[0] / us(3600)
        for count in (8, 9, 18, 19, 29)
    ]
    assert waits == [0, 23, 23, 47, 71]


def test_a_paced_lane_spends_evenly_and_says_when_its_next_comes() -> None:
    ledger = Ledger((RPM,))
    slow = LevelPolicy(burst=0.1)
    assert isinstance(ledger.reserve(at(ledger, 0.0), TokenCost(1, 0), slow), Charge)
    refused = ledger.reserve(at(ledger, 0.0), TokenCost(1, 0), slow)
    assert isinstance(refused, Shortage)
    assert refused.wait_s == pytest.approx(6.0, abs=0.01)
    assert isinstance(ledger.reserve(at(ledger, refused.wait_s), TokenCost(1, 0), slow), Charge)


def test_a_need_larger_than_a_lanes_share_still_fits_an_empty_window() -> None:
    ledger = Ledger((TPM,))
    policy = LevelPolicy(ceiling=0.5, burst=0.01)
    assert isinstance(ledger.reserve(at(ledger, 0.0), TokenCost(990, 0), policy), Charge)


@given(
    spent=st.lists(st.integers(0, 40), min_size=2, max_size=5),
    asks=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20_000), st.integers(1, 30)), max_size=60),
)
def test_replicas_that_cannot_ask_each_other_never_spend_more_than_the_whole(
    spent: list[int], asks: list[tuple[int, int, int]]
) -> None:
    window = Window("itpm", Count.INPUT, 200, 60)
    ledgers = [Ledger((window,)) for _ in spent]
    whole = Ledger((window,))
    now = 10_000.0
    for ledger, amount in zip(ledgers, spent, strict=True):
        ledger.charge(at(ledger, now), TokenCost(amount, 0))
        whole.charge(at(whole, now), TokenCost(amount, 0))
    for ledger in ledgers:
        ledger.enter_degraded(at(ledger, now), whole.window_status(at(whole, now)), len(spent))
    for who, milliseconds, amount in asks:
        now += milliseconds / 1000
        ledger = ledgers[who % len(ledgers)]
        if fits(ledger, now, TokenCost(amount, 0)):
            whole.charge(at(whole, now), TokenCost(amount, 0))
        assert used(whole, now)[0] <= 200


def test_what_was_granted_since_the_last_look_is_not_taken_for_free() -> None:
    ledger = Ledger((RPM,))
    seen = ledger.window_status(at(ledger, 1000.0))
    ledger.record_sync(at(ledger, 1000.0))
    for _ in range(4):
        ledger.charge(at(ledger, 1000.0), TokenCost(1, 0))
    # The other one is taken to have had four as well: two are free.
    ledger.enter_degraded(at(ledger, 1000.0), seen, 2)
    granted = [fits(ledger, 1000.0, TokenCost(1, 0)) for _ in range(3)]
    assert granted == [True, False, False]


@pytest.mark.parametrize(("replicas", "granted"), [(2, 2), (1, 10)])
def test_the_others_are_taken_to_have_gone_on_at_an_even_pace_since_the_last_look(
    replicas: int, granted: int
) -> None:
    ledger = Ledger((RPM,))
    seen = ledger.window_status(at(ledger, 1000.0))
    ledger.record_sync(at(ledger, 1000.0))
    # Half a window later: 5 of 10, where there are others.
    ledger.enter_degraded(at(ledger, 1030.0), seen, replicas)
    assert [fits(ledger, 1030.0, TokenCost(1, 0)) for _ in range(11)].count(True) == granted


@pytest.mark.parametrize("limit", [3, 10, 40, 41])
@pytest.mark.parametrize("since", [0.0, 61.0])
def test_parts_of_a_limit_that_does_not_divide_add_up_to_no_more_than_it(limit: int, since: float) -> None:
    window = Window("rpm", Count.REQUESTS, limit, 60)
    granted = 0
    for _ in range(3):
        ledger = Ledger((window,))
        ledger.enter_degraded(at(ledger, 1000.0), ledger.window_status(at(ledger, 1000.0)), 3)
        while fits(ledger, 1000.0 + since, TokenCost(1, 0)):
            granted += 1
    assert limit - 3 < granted <= limit


def test_a_place_that_the_provider_refused_to_a_replica_alone_is_not_tried_again() -> None:
    ledger = Ledger((RPM,))
    seen = WindowStatus(RPM, used=7, held=0, resets_s=60, limit=10)
    ledger.enter_degraded(at(ledger, 1000.0), (seen,), 3)
    charge = charged(ledger, 1000.0, TokenCost(1, 0))
    ledger.release_rejected(at(ledger, 1001.0), charge)
    assert not fits(ledger, 1001.0, TokenCost(1, 0))
    assert fits(ledger, 1061.0, TokenCost(1, 0))


def test_a_replica_alone_comes_to_an_equal_part_within_a_window() -> None:
    ledger = Ledger((RPM,))
    spent = WindowStatus(RPM, used=10, held=0, resets_s=60, limit=10)  # by the others
    ledger.enter_degraded(at(ledger, 1000.0), (spent,), 2)
    assert not fits(ledger, 1000.0, TokenCost(1, 0))
    granted = [fits(ledger, 1061.0, TokenCost(1, 0)) for _ in range(8)]
    assert granted.count(True) == 5
    ledger.leave_degraded()
    assert fits(ledger, 1061.0, TokenCost(1, 0))


class Counted(Struct):
    """What a provider has counted, and when."""

    at: float  # seconds
    amount: int


class LedgerMachine(RuleBasedStateMachine):
    """Against the naive truth: a strict provider that remembers every event to the millisecond.

    The ledger's clock may step back; the provider's never does.
    """

    @initialize(limit=st.integers(1, 30), tokens=st.integers(50, 2000))
    def start(self, limit: int, tokens: int) -> None:
        self.windows = (
            Window("rpm", Count.REQUESTS, limit, 60),
            Window("tpm", Count.TOKENS, tokens, 60),
            Window("otpm", Count.OUTPUT, tokens, 10),
        )
        self.ledger = Ledger(self.windows)
        self.now, self.behind = 100_000.0, 0.0
        self.live: list[tuple[Charge, list[Counted]]] = []
        self.truth: list[deque[Counted]] = [deque(), deque(), deque()]

    def _count(self, index: int, amount: int) -> Counted:
        counted = Counted(self.now, amount)
        self.truth[index].append(counted)
        return counted

    @rule(seconds=st.integers(0, 80_000).map(lambda ms: ms / 1000))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(seconds=st.sampled_from([0.05, 20.0, 299.0, 301.0, 3600.0]))
    def the_clock_steps_back(self, seconds: float) -> None:
        self.behind += seconds

    @property
    def clock(self) -> float:
        return self.now - self.behind

    @rule(given_input=st.integers(1, 300), output=st.integers(0, 300))
    def reserve_some(self, given_input: int, output: int) -> None:
        cost = cap_output(self.windows, TokenCost(given_input, output))
        if any(window.charge_of(cost) > window.limit for window in self.windows):
            return
        result = reserve(self.ledger, self.clock, cost)
        if isinstance(result, Shortage):
            assert result.wait_s > 0
            return
        self.live.append((result, [self._count(0, 1), self._count(1, cost.input)]))

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        """The true output is at most what was held: beyond it, no store can promise anything."""
        charge, _ = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        output = data.draw(st.integers(0, charge.cost.output))
        settle(self.ledger, self.clock, charge, TokenCost(charge.cost.input, output))
        self._count(1, output)
        self._count(2, output)

    @precondition(lambda self: self.live)
    @rule(data=st.data())
    def give_up(self, data: st.DataObject) -> None:
        """Nothing was sent."""
        charge, counted = self.live.pop(data.draw(st.integers(0, len(self.live) - 1)))
        self.ledger.release(moment_of(self.windows, us(self.clock)), charge)
        for it in counted:
            it.amount = 0

    @invariant()
    def the_provider_never_counts_more_than_its_limit(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for window, events in zip(self.windows, self.truth, strict=True):
            assert self._true(window, events) <= window.limit

    @invariant()
    def the_ledger_counts_at_least_what_the_provider_counts(self) -> None:
        if not hasattr(self, "ledger"):
            return
        levels = used(self.ledger, self.clock)
        for mine, window, events in zip(levels, self.windows, self.truth, strict=True):
            assert mine >= self._true(window, events)

    @invariant()
    def what_is_charged_by_bucket_is_all_that_is_charged(self) -> None:
        if not hasattr(self, "ledger"):
            return
        for ring in self.ledger.rings:
            charges = ring.by_bucket()
            assert sum(charges.values()) == ring.charged
            assert all(amount > 0 for amount in charges.values())

    def _true(self, window: Window, events: deque[Counted]) -> int:
        while events and events[0].at <= self.now - window.span_s:
            events.popleft()
        return sum(it.amount for it in events)


TestLedgerUnderAnyInterleaving = LedgerMachine.TestCase
TestLedgerUnderAnyInterleaving.settings = examples(60, stateful_step_count=40)


@given(
    st.lists(
        st.tuples(st.floats(0, 200, allow_nan=False), st.integers(1, 50), st.integers(0, 50)), max_size=30
    )
)
def test_reserve_and_release_is_nothing_at_any_time(steps: list[tuple[float, int, int]]) -> None:
    ledger = Ledger((RPM, TPM))
    now = 1_000_000.0
    reserve(ledger, now, TokenCost(10, 0))
    for wait, given_input, output in steps:
        now += wait
        before = used(ledger, now)
        result = reserve(ledger, now, TokenCost(given_input, output))
        if isinstance(result, Charge):
            ledger.release(moment_of(ledger.windows, us(now)), result)
        assert used(ledger, now) == before


CHARGES = st.lists(
    st.tuples(st.floats(0, 30, allow_nan=False), st.integers(1, 50), st.integers(0, 50)),
    min_size=1,
    max_size=12,
)


@given(CHARGES, st.integers(0, 11), st.floats(0, 90), st.integers(0, 400), st.integers(0, 400))
def test_settling_moves_nothing_but_the_bucket_of_the_grant_and_that_of_the_completion(
    steps: list[tuple[float, int, int]], which: int, later: float, given_input: int, output: int
) -> None:
    ledger, now = Ledger((TPM, RPM)), 1_000_000.0
    charges = []
    for wait, amount, held in steps:
        now += wait
        charge = reserve(ledger, now, TokenCost(amount, held))
        if isinstance(charge, Charge):
            charges.append(charge)
    charge, now = charges[which % len(charges)], now + later
    used(ledger, now)
    before, held_before = [ring.by_bucket() for ring in ledger.rings], ledger.rings[0].held
    settle(ledger, now, charge, TokenCost(given_input, output))
    after = [ring.by_bucket() for ring in ledger.rings]
    moved = {it: after[0].get(it, 0) - before[0].get(it, 0) for it in after[0].keys() | before[0].keys()}
    newest, own = ledger.rings[0].newest, charge.buckets[0]
    wanted = {newest - TPM.guard: output}
    if newest - own < SIZE:  # else it is out of the window and no more
        wanted[own] = wanted.get(own, 0) + given_input - charge.cost.input
    assert {it: amount for it, amount in moved.items() if amount} == {
        it: amount for it, amount in wanted.items() if amount
    }
    assert after[1] == before[1]  # a request is a request
    assert ledger.rings[0].held == held_before - charge.cost.output
    assert ledger.rings[0].charged == sum(after[0].values())
