"""A request's way through the targets: which is asked, where it waits, and that no quota is left behind."""

from collections.abc import Generator
from itertools import chain
from typing import Any
from uuid import uuid4

import gevent
import pytest

from knowalledge.core import errors as e
from knowalledge.core.clock import SystemClock
from knowalledge.core.context import Priority, RequestContext
from knowalledge.gateway.domain.answer import Chunk, Completion, Finish, Usage
from knowalledge.gateway.domain.estimate import Estimator
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.gateway.domain.request import Request
from knowalledge.gateway.domain.routing import Breaker, RetryBudget
from knowalledge.gateway.service.catalog import ModelCatalog, ModelRoutes, Target
from knowalledge.gateway.service.dispatcher import Dispatcher
from knowalledge.gateway.service.gateway import QuotaGateway
from knowalledge.quota.domain.queue import QueueOutcome, QueueRules
from knowalledge.quota.domain.window import Count, Window
from knowalledge.quota.memory import MemoryQuotaStore
from tests.support.doubles import RecordingTelemetry

PROMPT = Prompt((Message("user", (Text("hi"),)),))
ONE = Window("rps", Count.REQUESTS, 1, 1)


class Model:
    """A provider that answers at once, unless it has errors to raise first."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = 0

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return Completion((Text("yes"),), Finish.STOP, Usage(1, 1))

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        yield [Chunk("yes")]
        yield [Chunk(usage=Usage(1, 1), finish=Finish.STOP)]


class GatewayHarness:
    """A gateway of models with targets, each target with a window or none."""

    def __init__(
        self, patience: float = 30.0, capacity: int = 100, **targets: tuple[str, int, Model, Window | None]
    ) -> None:
        windows = {name: (it[3],) if it[3] else () for name, it in targets.items()}
        self.quota = MemoryQuotaStore(windows, QueueRules(capacity), SystemClock())
        self.told = RecordingTelemetry()
        models = list(dict.fromkeys(it[0] for it in targets.values()))
        routes = {
            model: ModelRoutes(
                model,
                tuple(Target(name, it[1], it[2]) for name, it in targets.items() if it[0] == model),  # type: ignore[arg-type]
                tuple(models[index + 1 : index + 2]),
            )
            for index, model in enumerate(models)
        }
        self.gateway = QuotaGateway(
            Dispatcher(
                catalog=ModelCatalog(routes, models[0]),
                quota=self.quota,
                clock=SystemClock(),
                new_id=lambda: uuid4().hex,
                telemetry=self.told,
                timeout_s=60,
                patience_s=patience,
                retry_budget=RetryBudget(),
                estimator=Estimator(),
                breakers={name: Breaker() for name in targets},
                headroom={},
            )
        )

    def ask(self, **given: Any) -> Any:
        return self.gateway.complete(RequestContext("r", **given), Request("", PROMPT))

    def stream(self) -> list[Event]:
        return list(chain.from_iterable(self.gateway.stream(RequestContext("r"), Request("", PROMPT))))

    def left(self, target: str) -> int:
        """What is still held or charged of a target's window."""
        return self.quota.window_status(target)[0].used


def test_the_lowest_tier_is_asked_first_and_the_next_takes_over_when_it_is_full() -> None:
    house = GatewayHarness(paid=("m", 1, Model(), None), reserved=("m", 0, Model(), ONE))
    assert [house.ask().target for _ in range(3)] == ["reserved", "paid", "paid"]


def test_another_model_answers_when_no_target_of_the_first_can_in_time_and_the_answer_says_so() -> None:
    house = GatewayHarness(0.2, first=("big", 0, Model(), ONE), second=("small", 0, Model(), None))
    answers = [house.ask() for _ in range(2)]
    assert [(it.model, it.degraded) for it in answers] == [("big", False), ("small", True)]


def test_the_model_that_was_asked_for_is_waited_for_if_there_is_time() -> None:
    house = GatewayHarness(first=("big", 0, Model(), ONE), second=("small", 0, Model(), None))
    answers = [house.ask() for _ in range(2)]
    assert [(it.model, it.degraded) for it in answers] == [("big", False)] * 2
    assert answers[1].queue.waited_ms > 100


def test_another_model_answers_one_that_was_pushed_out_of_its_place() -> None:
    house = GatewayHarness(first=("big", 0, Model(), ONE), second=("small", 0, Model(), None), capacity=1)
    house.ask()
    low = gevent.spawn(house.ask, priority=Priority.LOW)
    gevent.sleep(0.05)
    urgent = gevent.spawn(house.ask, priority=Priority.HIGH)
    assert (low.get(timeout=5).model, urgent.get(timeout=5).model) == ("small", "big")


def test_when_no_model_can_in_time_the_time_told_is_that_of_the_one_that_was_asked_for() -> None:
    hour = Window("rph", Count.REQUESTS, 1, 3600)
    house = GatewayHarness(0.2, first=("big", 0, Model(), hour), second=("small", 0, Model(), ONE))
    for _ in range(2):
        house.ask()
    with pytest.raises(e.Limited) as told:
        house.ask()
    assert told.value.retry_after == pytest.approx(3600, rel=0.01)


class Counts(Model):
    """A provider that says how many tokens a prompt has."""

    def __init__(self, tokens: int, *errors: Exception) -> None:
        super().__init__(*errors)
        self.tokens = tokens

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        if self.errors:
            raise self.errors.pop(0)
        return self.tokens


FIVE = Window("tpm", Count.INPUT, 5, 60)  # the estimate of PROMPT is larger
MANY = Prompt((Message("user", (Text("hi " * 30),)),))


def test_a_request_that_is_thought_too_large_but_fits_is_not_refused() -> None:
    house = GatewayHarness(t=("m", 0, Counts(5), FIVE))
    assert house.gateway.complete(RequestContext("r"), Request("", MANY)).target == "t"
    assert house.left("t") == 1  # as the answer said


@pytest.mark.parametrize("model", [Counts(6), Counts(60), Counts(0, e.ProviderUnavailable("away"))])
def test_a_request_that_is_too_large_by_count_or_by_the_only_estimate_is_refused_before_it_is_sent(
    model: Counts,
) -> None:
    house = GatewayHarness(t=("m", 0, model, FIVE))
    with pytest.raises(e.NeverFits):
        house.gateway.complete(RequestContext("r"), Request("", MANY))
    assert model.calls == 0
    assert house.left("t") == 0


def test_a_request_too_large_for_one_target_goes_to_another_that_it_fits() -> None:
    house = GatewayHarness(small=("m", 0, Counts(60), FIVE), large=("m", 1, Model(), None))
    assert house.gateway.complete(RequestContext("r"), Request("", MANY)).target == "large"


def test_when_all_are_full_it_waits_where_its_turn_comes_soonest() -> None:
    slow = Window("rpm", Count.REQUESTS, 1, 20)
    house = GatewayHarness(slow=("m", 0, Model(), slow), fast=("m", 0, Model(), ONE))
    house.ask()
    house.ask()
    answer = house.ask()
    assert answer.target == "fast"
    assert answer.queue.position == 1
    assert answer.queue.waited_ms > 100


def test_a_stream_tells_its_place_before_it_starts() -> None:
    house = GatewayHarness(t=("m", 0, Model(), ONE))
    house.ask()
    kinds = [type(it) for it in house.stream()]
    assert kinds[0] is QueuePosition
    assert kinds[-1] is Done
    assert Started in kinds
    assert house.told.records[-1].queue_outcome is QueueOutcome.GRANTED


def test_a_429_is_waited_out_at_the_same_target_if_there_is_time() -> None:
    model = Model(e.ProviderRateLimited("x", retry_after=0.2))
    answer = GatewayHarness(t=("m", 0, model, ONE)).ask()
    assert model.calls == 2
    assert answer.queue.waited_ms >= 150


def test_the_place_of_a_refused_call_is_not_tried_by_the_next_before_the_time_that_was_named() -> None:
    class Slow(Model):
        def complete(self, prompt: Prompt, timeout: float) -> Completion:
            if not self.calls:
                gevent.sleep(0.02)  # until somebody waits behind it
            asked.append(SystemClock().monotonic())
            return super().complete(prompt, timeout)

    asked: list[float] = []
    house = GatewayHarness(t=("m", 0, Slow(e.ProviderRateLimited("x", retry_after=0.2)), ONE))
    gevent.joinall([gevent.spawn(house.ask) for _ in range(2)], raise_error=True)
    assert len(asked) == 3
    assert asked[1] - asked[0] >= 0.2


def test_a_429_that_outlasts_the_patience_is_told_with_its_time() -> None:
    house = GatewayHarness(t=("m", 0, Model(e.ProviderRateLimited("x", retry_after=99)), ONE))
    with pytest.raises(e.ProviderRateLimited) as caught:
        house.ask()
    assert caught.value.retry_after == 99
    assert house.left("t") == 0


def test_a_failure_goes_on_to_the_next_target_once() -> None:
    broken = Model(*[e.ProviderUnavailable("x")] * 9)
    house = GatewayHarness(a=("m", 0, broken, None), b=("m", 1, Model(), None))
    assert house.ask().target == "b"
    assert broken.calls == 1


def test_retries_are_a_tenth_of_the_calls_once_the_reserve_is_gone() -> None:
    budget = RetryBudget()
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(25):
        budget.deposit()
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]


def test_without_a_retry_left_the_failure_is_told() -> None:
    house = GatewayHarness(a=("m", 0, Model(e.ProviderUnavailable("x")), None), b=("m", 1, Model(), None))
    while house.gateway._dispatcher.retry_budget.withdraw():
        pass
    with pytest.raises(e.ProviderUnavailable):
        house.ask()


def test_what_fails_before_an_answer_is_not_tried_again_after_its_first_piece() -> None:
    class Cut(Model):
        def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
            self.calls += 1
            yield [Chunk("half")]
            raise e.ProviderGarbage("cut")

    model = Cut()
    house = GatewayHarness(t=("m", 0, model, None), u=("m", 1, Model(), None))
    with pytest.raises(e.ProviderGarbage):
        house.stream()
    assert model.calls == 1


class Thinks(Model):
    """Counts before it says anything, and fails then for as long as it has errors."""

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        self.calls += 1
        yield [Chunk(usage=Usage(7, 0, thinking=40))]
        if self.errors:
            raise self.errors.pop(0)
        yield [Chunk("yes", usage=Usage(7, 1, thinking=40))]
        yield [Chunk(usage=Usage(7, 1, thinking=40), finish=Finish.STOP)]


def test_a_count_before_the_first_content_does_not_stand_in_the_way_of_another_try() -> None:
    tokens = Window("tpm", Count.TOKENS, 10_000, 60)
    model = Thinks(e.ProviderUnavailable("overloaded"))
    house = GatewayHarness(t=("m", 0, model, tokens), u=("m", 1, Model(), None))
    events = house.stream()
    assert [type(it) for it in events] == [Started, Delta, Done]
    assert isinstance(events[-1], Done)
    assert events[-1].answer.target == "u"
    assert events[-1].answer.usage == Usage(1, 1)  # nothing of the first try's count is left over
    assert house.left("t") == 47  # what the failed try had counted stays charged


def test_what_a_caller_did_not_stay_for_is_charged_by_what_was_said_and_teaches_nothing() -> None:
    class Talks(Model):
        def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
            yield [Chunk("hello ", usage=Usage(7, 1))]
            while True:
                yield [Chunk("and so on ")]

    house = GatewayHarness(t=("m", 0, Talks(), Window("tpm", Count.TOKENS, 10_000, 60)))
    estimator = house.gateway._dispatcher.estimator
    before = estimator.estimate("m", PROMPT).cost.output
    stream = house.gateway.stream(RequestContext("r"), Request("", PROMPT))
    for _ in range(101):
        next(stream)
    stream.close()
    assert 150 < house.left("t") < 400
    assert estimator.estimate("m", PROMPT).cost.output == before


def test_a_target_that_does_not_take_our_key_is_passed_over_and_then_rests() -> None:
    locked = Model(*[e.ProviderAuth("x")] * 99)
    house = GatewayHarness(a=("m", 0, locked, ONE), b=("m", 1, Model(), None))
    assert {house.ask().target for _ in range(20)} == {"b"}
    assert locked.calls == 5
    assert house.left("a") == 0


def test_a_target_alone_that_does_not_take_our_key_says_so() -> None:
    house = GatewayHarness(a=("m", 0, Model(e.ProviderAuth("x")), None))
    with pytest.raises(e.ProviderAuth):
        house.ask()


@pytest.mark.parametrize(
    ("quota_id", "hint", "closed_s"),
    [
        ("", None, 1),
        ("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", None, 1),
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", None, 60),
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 7.5, 7.5),
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 10.0**9, 86_400),
    ],
)
def test_a_429_closes_for_what_it_names_and_a_bare_one_for_a_second(
    quota_id: str, hint: float | None, closed_s: float
) -> None:
    refusal = e.ProviderRateLimited("x", retry_after=hint, quota_id=quota_id)
    house = GatewayHarness(patience=0.0, t=("m", 0, Model(refusal), ONE))
    with pytest.raises(e.ProviderRateLimited):
        house.ask()
    with pytest.raises(e.Limited) as caught:
        house.ask()
    assert caught.value.retry_after == pytest.approx(closed_s, abs=0.2)


def test_an_answer_without_a_count_is_charged_by_its_estimate_and_told_of() -> None:
    class Silent(Model):
        def complete(self, prompt: Prompt, timeout: float) -> Completion:
            return Completion((Text("one two three four"),), Finish.STOP)

    house = GatewayHarness(t=("m", 0, Silent(), Window("tpm", Count.TOKENS, 1000, 60)))
    assert house.ask().usage.output > 0
    assert 5 < house.left("t") < 20
    assert house.told.uncounted_targets == ["t"]


def test_a_refusal_says_what_is_left_of_the_windows() -> None:
    house = GatewayHarness(patience=0.0, t=("m", 0, Model(), ONE))
    house.ask()
    with pytest.raises(e.QuotaExhausted) as caught:
        house.ask()
    assert [(it.name, it.remaining, it.unit) for it in caught.value.allowances] == [("rps", 0, "requests")]


def test_whoever_leaves_while_waiting_leaves_nothing_behind() -> None:
    house = GatewayHarness(t=("m", 0, Model(), Window("rpm", Count.REQUESTS, 1, 20)))
    house.ask()
    waiting = gevent.spawn(house.ask)
    gevent.sleep(0.05)
    assert sum(it.waiting for it in house.quota.queue_stats("t")) == 1
    waiting.kill(e.ClientGone("left"))
    assert sum(it.waiting for it in house.quota.queue_stats("t")) == 0
    assert house.told.records[-1].queue_outcome is QueueOutcome.CANCELLED
    assert house.left("t") == 1


def test_a_turn_that_does_not_come_in_time_is_told_with_a_time_to_come_back() -> None:
    house = GatewayHarness(0.5, t=("m", 0, Model(), Window("rps", Count.REQUESTS, 1, 1)))
    house.ask()
    with pytest.raises(e.DeadlineTooShort) as caught:
        house.ask()
    assert 0.5 < (caught.value.retry_after or 0) < 1.5


def test_a_replica_that_ends_sends_its_waiters_away() -> None:
    house = GatewayHarness(t=("m", 0, Model(), Window("rpm", Count.REQUESTS, 1, 20)))
    house.ask()
    waiting = gevent.spawn(house.ask)
    gevent.sleep(0.05)
    house.quota.shut()
    with pytest.raises(e.ShuttingDown):
        waiting.get(timeout=5)


def test_every_target_resting_is_unavailable_and_says_for_how_long() -> None:
    house = GatewayHarness(t=("m", 0, Model(*[e.ProviderUnavailable("x")] * 9), None))
    for _ in range(5):
        with pytest.raises(e.ProviderUnavailable):
            house.ask()
    with pytest.raises(e.CircuitOpen) as caught:
        house.ask()
    assert 0 < (caught.value.retry_after or 0) <= 5
