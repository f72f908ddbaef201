"""The planner: the real desk in virtual time."""

from knowalledge.core.context import Priority
from knowalledge.quota.domain.queue import QueueRules
from knowalledge.quota.domain.window import SECOND, Count, LevelPolicy, TokenCost, Window
from knowalledge.quota.planner.simulation import Arrival, Scenario, scaled, simulate

START = 1_790_000_000 * SECOND
RPM = Window("rpm", Count.REQUESTS, 10, 60)


def every(seconds: float, number: int, level: Priority = Priority.MEDIUM) -> list[Arrival]:
    return [Arrival(int(i * seconds * SECOND), f"p{i}", TokenCost(10, 10), level) for i in range(number)]


def scenario(*windows: Window, patience: float = 30, kept: float = 0) -> Scenario:
    rules = QueueRules(capacity=100, policies={Priority.LOW: LevelPolicy(0.9, 0.1)})
    return Scenario(windows, rules, patience, kept, 10)


def test_what_fits_is_served_at_once() -> None:
    result = simulate(scenario(RPM), every(7, 50), START)
    assert (result.granted, result.refused) == (50, {})
    assert result.wait_times[Priority.MEDIUM].worst == 0


def test_overload_fills_the_quota_and_no_more() -> None:
    result = simulate(scenario(RPM), every(2, 600), START)
    assert 0.95 < result.used["rpm"] <= 1 + 1.1 / 20  # twenty windows, and the first begins empty
    assert result.granted + sum(result.refused.values()) == 600


def test_the_urgent_hardly_wait_though_the_rest_is_too_much() -> None:
    both = sorted(every(30, 40, Priority.HIGH) + every(1, 1200, Priority.LOW), key=lambda it: it.at)
    result = simulate(scenario(RPM), both, START)
    assert result.wait_times[Priority.HIGH].granted == 40
    assert result.wait_times[Priority.HIGH].p95 < 10


def test_twice_the_quota_serves_about_twice_as_many() -> None:
    once = simulate(scenario(RPM), every(1, 600), START)
    twice = simulate(scenario(*scaled((RPM,), 2)), every(1, 600), START)
    assert 1.8 < twice.granted / once.granted < 2.2


def test_an_equal_prompt_is_answered_from_the_cache_while_its_answer_is_kept() -> None:
    same = [Arrival(i * SECOND, "p", TokenCost(10, 10)) for i in range(100)]
    result = simulate(scenario(RPM, kept=49), same, START)
    assert (result.granted, result.cache_hits) == (2, 98)


def test_what_can_never_fit_is_refused() -> None:
    result = simulate(
        scenario(Window("tpm", Count.TOKENS, 15, 60)), [Arrival(0, "p", TokenCost(16, 1))], START
    )
    assert result.refused == {"never_fits": 1}


def test_many_replicas_that_cannot_ask_each_other_serve_less_than_one_ledger() -> None:
    quota = Window("rpm", Count.REQUESTS, 60, 60)
    # Their parts are whole: forty of one each, of sixty.
    together, isolated = (simulate(scenario(quota), every(0.5, 2400), START, alone) for alone in (1, 40))
    assert 0 < isolated.granted < together.granted
