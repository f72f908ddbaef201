"""A limit that nobody publishes, learnt from a strict provider in virtual time."""

from bisect import bisect_right
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random

import pytest
from msgspec import Struct

from knowalledge.quota.domain.calendar import moment_of
from knowalledge.quota.domain.ceiling import (
    CLIMB_FACTOR,
    CUT_FACTOR,
    PROBE_S,
    REPEAT_S,
    STEP_S,
    VERIFY_S,
    Ceiling,
)
from knowalledge.quota.domain.ledger import Charge, Ledger, Shortage
from knowalledge.quota.domain.window import (
    SECOND,
    Count,
    LevelPolicy,
    Moment,
    TokenCost,
    Window,
    WindowStatus,
)
from knowalledge_simulator.window import Window as Judge

ONE = TokenCost(1, 1)
LEARNT = Window("learnt", Count.REQUESTS, 60, 60, learn=True)


def us(seconds: float) -> int:
    return round(seconds * SECOND)


def at(seconds: float) -> Moment:
    return moment_of((LEARNT,), us(seconds))


def ceiling_cut_to(limit: int, now: float = 1000.0) -> Ceiling:
    """A ceiling that was cut to the limit at a moment."""
    ceiling = Ceiling(limit + 1)
    ceiling.reject(us(now), us(now), limit)
    return ceiling


def raised_by(ceiling: Ceiling, now: float) -> int:
    """By how much it gives way."""
    before = ceiling.limit
    ceiling.probe(us(now))
    return ceiling.limit - before


def test_a_probe_is_one_request_more_and_a_refused_one_gives_its_place_back() -> None:
    ceiling = ceiling_cut_to(40)
    assert raised_by(ceiling, 1000 + PROBE_S - 0.1) == 0
    assert raised_by(ceiling, 1000 + PROBE_S) == 1
    assert raised_by(ceiling, 1000 + PROBE_S + 0.1) == 0
    ceiling.reject(us(1000 + PROBE_S + 0.2), us(1000 + PROBE_S), 40)
    assert ceiling.limit == 40
    assert raised_by(ceiling, 1000 + 2 * PROBE_S) == 0


def test_steps_double_from_an_accepted_probe_on_and_the_refused_one_is_taken_back() -> None:
    ceiling = ceiling_cut_to(40)
    now = 1000.0 + PROBE_S
    steps = [raised_by(ceiling, now)]
    now += VERIFY_S
    for _ in range(4):
        steps.append(raised_by(ceiling, now))
        now += STEP_S
    assert steps == [1, 2, 4, 8, 16]
    assert ceiling.climbing
    ceiling.reject(us(now), us(now - 0.1), 60)
    assert ceiling.limit == 60
    assert not ceiling.climbing


def test_what_was_accepted_before_a_step_is_not_taken_back_though_places_came_free_meanwhile() -> None:
    ceiling = ceiling_cut_to(40)
    raised_by(ceiling, 1000 + PROBE_S)
    ceiling.reject(us(1001 + PROBE_S), us(1000 + PROBE_S), 38)
    assert ceiling.limit == 40


def test_refusals_that_go_on_cut_a_tenth_each_and_those_on_their_way_do_not() -> None:
    ceiling = Ceiling(100)
    ceiling.reject(us(1000), us(999), 99)
    ceiling.reject(us(1000.1), us(999.1), 98)  # it was on its way
    assert ceiling.limit == 98
    ceiling.reject(us(1001), us(1000.9), 97)
    assert ceiling.limit == int(97 * CUT_FACTOR)


@pytest.mark.parametrize("later", [REPEAT_S + 1.0, 1.0])
def test_a_refusal_long_after_another_or_soon_after_a_probe_is_no_sign_of_a_lower_limit(later: float) -> None:
    ceiling = ceiling_cut_to(100)
    now = 1000.0
    if later < REPEAT_S:
        now += PROBE_S
        raised_by(ceiling, now)
        ceiling.reject(us(now), us(now), 100)
    ceiling.reject(us(now + later), us(now + later), 99)
    assert ceiling.limit == 99


def test_a_ceiling_never_comes_down_to_nothing() -> None:
    ceiling = Ceiling(2)
    for second in range(30):
        ceiling.reject(us(1000 + second), us(1000 + second), 0)
    assert ceiling.limit == 1


def test_what_another_has_found_is_not_probed_at_once_and_what_is_known_already_changes_nothing() -> None:
    ceiling = Ceiling(60)
    ceiling.adopt(us(1000), 60)
    assert ceiling.climbing
    ceiling.adopt(us(1000), 90)
    assert (ceiling.limit, ceiling.climbing, raised_by(ceiling, 1001)) == (90, False, 0)


def ledger_of(limit: int, now: float) -> Ledger:
    """A ledger with nothing in it whose ceiling was cut to the limit a probe's interval ago."""
    ledger = Ledger((LEARNT,))
    ledger.rings[0].ceiling = ceiling_cut_to(limit, now - PROBE_S)
    return ledger


def test_a_window_that_is_held_back_by_the_pace_alone_is_not_probed() -> None:
    ledger = ledger_of(20, 1000.0)
    granted = [isinstance(ledger.reserve(at(1000.0), ONE), Charge) for _ in range(4)]
    assert granted == [True, True, False, False]
    assert ledger.window_status(at(1000.0))[0].limit == 20


def test_a_full_window_is_probed_by_one_request_as_soon_as_the_pace_allows() -> None:
    ledger = ledger_of(20, 1000.0)
    for _ in range(20):
        ledger.charge(at(990.0), ONE)
    ledger.rings[0].pace_debt = 2.0
    granted = []
    for tenth in range(20):
        granted.append(isinstance(ledger.reserve(at(1000.0 + tenth / 10), ONE), Charge))
    assert granted.count(True) == 1
    assert True in granted[:11]
    assert ledger.window_status(at(1002.0))[0].limit == 21


def test_while_it_climbs_requests_go_one_by_one_and_fast() -> None:
    ledger = Ledger((LEARNT,))
    first, second = (ledger.reserve(at(1000.0), ONE) for _ in range(2))
    assert isinstance(first, Charge)
    assert isinstance(second, Shortage)
    assert second.wait_s == pytest.approx(1 / CLIMB_FACTOR, abs=1e-5)
    assert isinstance(ledger.reserve(at(1000.0 + second.wait_s), ONE), Charge)


def test_a_level_that_leaves_a_share_to_others_probes_when_its_own_is_full() -> None:
    ledger = ledger_of(20, 1000.0)
    for _ in range(18):
        ledger.charge(at(990.0), ONE)
    ledger.reserve(at(1000.0), ONE, LevelPolicy(0.9))
    assert ledger.window_status(at(1000.0))[0].limit == 21


def test_alone_a_refusal_cuts_to_what_is_used_and_what_is_the_others() -> None:
    ledger = Ledger((LEARNT,))
    ledger.enter_degraded(at(1000.0), (WindowStatus(LEARNT, used=0, held=0, resets_s=60, limit=40),), 2)
    charges = [ledger.charge(at(1000.0), ONE) for _ in range(10)]
    ledger.release_rejected(at(1000.1), charges[-1])
    assert ledger.rings[0].limit == 20 + 9


class Call(Struct, frozen=True):
    """One call as the provider saw it."""

    at: float
    accepted: bool


def played(limit_at: Callable[[float], int], seconds: int, seed: int) -> tuple[list[Call], list[int]]:
    """Requests keep coming, eight a second, and a few always wait; the calls, and the ceiling at each second."""
    ledger, judge, dice = Ledger((LEARNT,)), Judge(60), Random(seed)
    start = dice.randrange(60)
    waiting = 0
    turn = 0.0  # when the next of them is worth trying
    in_flight: list[tuple[float, Charge]] = []
    calls: list[Call] = []
    ceilings = []
    for tick in range(seconds * 40):
        now = tick / 40
        moment = at(start + now)
        while in_flight and in_flight[0][0] <= now:
            arrived, charge = heappop(in_flight)
            refused = judge.wait(arrived, 1, limit_at(arrived)) > 0
            calls.append(Call(arrived, not refused))
            if refused:
                ledger.release_rejected(moment, charge)
                ledger.close_gate(moment.now + SECOND)
            else:
                judge.add(arrived, 1, 0)
        waiting = min(20, waiting + (tick % 5 == 0))
        while waiting and now >= turn:
            result = ledger.reserve(moment, ONE)
            if isinstance(result, Shortage):
                turn = now + min(result.wait_s, 0.5)
                break
            waiting -= 1
            heappush(in_flight, (now + dice.lognormvariate(-3.5, 0.5), result))  # 30 ms
        if tick % 40 == 0:
            ceilings.append(ledger.rings[0].limit)
    return calls, ceilings


@pytest.mark.parametrize("seed", range(3))
def test_a_limit_that_moves_is_found_within_a_minute_and_then_costs_few_refused_calls(seed: int) -> None:
    moves, limits = (0, 180, 360), (100, 40, 160)
    calls, ceilings = played(lambda now: limits[bisect_right(moves, now) - 1], 540, seed)
    for move, limit in zip(moves, limits, strict=True):
        steady = [it.accepted for it in calls if move + 60 <= it.at < move + 180]
        assert abs(ceilings[move + 60] / limit - 1) <= 0.15
        assert steady.count(False) <= 0.03 * len(steady)
        assert steady.count(True) >= 0.8 * 2 * limit


def test_a_limit_that_stays_costs_one_refused_call_a_probe() -> None:
    calls, ceilings = played(lambda now: 40, 640, 1)
    refused = [it.at for it in calls if it.at >= 60 and not it.accepted]
    assert len(refused) <= 580 // PROBE_S
    assert set(ceilings[60:]) <= {40, 41}
