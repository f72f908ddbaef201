"""The execution of a request: which target is called, where it waits, and that no quota is left behind."""

from collections.abc import Generator
from itertools import chain
from typing import Any
from uuid import uuid4

import gevent
import pytest

from knowalledge.core import errors
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

    def __init__(self, *failures: Exception) -> None:
        self.failures = list(failures)
        self.calls = 0

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        return Completion((Text("yes"),), Finish.STOP, Usage(1, 1))

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        self.calls += 1
        if self.failures:
            raise self.failures.pop(0)
        yield [Chunk("yes")]
        yield [Chunk(usage=Usage(1, 1), finish=Finish.STOP)]


class GatewayHarness:
    """A gateway of models with targets, each target with a window or none."""

    def __init__(
        self, patience: float = 30.0, capacity: int = 100, **targets: tuple[str, int, Model, Window | None]
    ) -> None:
        windows = {name: (it[3],) if it[3] else () for name, it in targets.items()}
        self.quota = MemoryQuotaStore(windows, QueueRules(capacity), SystemClock())
        self.telemetry = RecordingTelemetry()
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
                telemetry=self.telemetry,
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

    def used(self, target: str) -> int:
        """What is held or charged of the target's first window."""
        return self.quota.window_status(target)[0].used


def test_the_lowest_tier_is_asked_first_and_the_next_takes_over_when_it_is_full() -> None:
    harness = GatewayHarness(paid=("m", 1, Model(), None), reserved=("m", 0, Model(), ONE))
    assert [harness.ask().target for _ in range(3)] == ["reserved", "paid", "paid"]


def test_another_model_answers_when_no_target_of_the_first_can_in_time_and_the_answer_says_so() -> None:
    harness = GatewayHarness(0.2, first=("big", 0, Model(), ONE), second=("small", 0, Model(), None))
    answers = [harness.ask() for _ in range(2)]
    assert [(it.model, it.degraded) for it in answers] == [("big", False), ("small", True)]


def test_the_model_that_was_asked_for_is_waited_for_if_there_is_time() -> None:
    harness = GatewayHarness(first=("big", 0, Model(), ONE), second=("small", 0, Model(), None))
    answers = [harness.ask() for _ in range(2)]
    assert [(it.model, it.degraded) for it in answers] == [("big", False)] * 2
    assert answers[1].queue.waited_ms > 100


def test_another_model_answers_one_that_was_pushed_out_of_its_place() -> None:
    harness = GatewayHarness(first=("big", 0, Model(), ONE), second=("small", 0, Model(), None), capacity=1)
    harness.ask()
    low = gevent.spawn(harness.ask, priority=Priority.LOW)
    gevent.sleep(0.05)
    urgent = gevent.spawn(harness.ask, priority=Priority.HIGH)
    assert (low.get(timeout=5).model, urgent.get(timeout=5).model) == ("small", "big")


def test_when_no_model_can_in_time_the_time_told_is_that_of_the_one_that_was_asked_for() -> None:
    hour = Window("rph", Count.REQUESTS, 1, 3600)
    harness = GatewayHarness(0.2, first=("big", 0, Model(), hour), second=("small", 0, Model(), ONE))
    for _ in range(2):
        harness.ask()
    with pytest.raises(errors.Limited) as caught:
        harness.ask()
    assert caught.value.retry_after == pytest.approx(3600, rel=0.01)


class Counts(Model):
    """A provider that says how many tokens a prompt has."""

    def __init__(self, tokens: int, *failures: Exception) -> None:
        super().__init__(*failures)
        self.tokens = tokens

    def count_tokens(self, prompt: Prompt, timeout: float) -> int:
        if self.failures:
            raise self.failures.pop(0)
        return self.tokens


FIVE = Window("tpm", Count.INPUT, 5, 60)  # the estimate of PROMPT is larger
MANY = Prompt((Message("user", (Text("hi " * 30),)),))


def test_a_request_that_is_thought_too_large_but_fits_is_not_refused() -> None:
    harness = GatewayHarness(t=("m", 0, Counts(5), FIVE))
    assert harness.gateway.complete(RequestContext("r"), Request("", MANY)).target == "t"
    assert harness.used("t") == 1  # as the answer said


@pytest.mark.parametrize("model", [Counts(6), Counts(60), Counts(0, errors.ProviderUnavailable("away"))])
def test_a_request_that_is_too_large_by_count_or_by_the_only_estimate_is_refused_before_it_is_sent(
    model: Counts,
) -> None:
    harness = GatewayHarness(t=("m", 0, model, FIVE))
    with pytest.raises(errors.NeverFits):
        harness.gateway.complete(RequestContext("r"), Request("", MANY))
    assert model.calls == 0
    assert harness.used("t") == 0


def test_a_request_too_large_for_one_target_goes_to_another_that_it_fits() -> None:
    harness = GatewayHarness(small=("m", 0, Counts(60), FIVE), large=("m", 1, Model(), None))
    assert harness.gateway.complete(RequestContext("r"), Request("", MANY)).target == "large"


def test_when_all_are_full_it_waits_where_its_turn_comes_soonest() -> None:
    slow = Window("rpm", Count.REQUESTS, 1, 20)
    harness = GatewayHarness(slow=("m", 0, Model(), slow), fast=("m", 0, Model(), ONE))
    harness.ask()
    harness.ask()
    answer = harness.ask()
    assert answer.target == "fast"
    assert answer.queue.position == 1
    assert answer.queue.waited_ms > 100


def test_a_stream_tells_its_place_before_it_starts() -> None:
    harness = GatewayHarness(t=("m", 0, Model(), ONE))
    harness.ask()
    kinds = [type(it) for it in harness.stream()]
    assert kinds[0] is QueuePosition
    assert kinds[-1] is Done
    assert Started in kinds
    assert harness.telemetry.records[-1].queue_outcome is QueueOutcome.GRANTED


def test_a_429_is_waited_out_at_the_same_target_if_there_is_time() -> None:
    model = Model(errors.ProviderRateLimited("x", retry_after=0.2))
    answer = GatewayHarness(t=("m", 0, model, ONE)).ask()
    assert model.calls == 2
    assert answer.queue.waited_ms >= 150


def test_the_quota_of_a_rejected_call_goes_to_nobody_before_the_time_that_the_429_names() -> None:
    class Slow(Model):
        def complete(self, prompt: Prompt, timeout: float) -> Completion:
            if not self.calls:
                gevent.sleep(0.02)  # until somebody waits behind it
            asked.append(SystemClock().monotonic())
            return super().complete(prompt, timeout)

    asked: list[float] = []
    harness = GatewayHarness(t=("m", 0, Slow(errors.ProviderRateLimited("x", retry_after=0.2)), ONE))
    gevent.joinall([gevent.spawn(harness.ask) for _ in range(2)], raise_error=True)
    assert len(asked) == 3
    assert asked[1] - asked[0] >= 0.2


def test_a_429_that_outlasts_the_patience_is_told_with_its_time() -> None:
    harness = GatewayHarness(t=("m", 0, Model(errors.ProviderRateLimited("x", retry_after=99)), ONE))
    with pytest.raises(errors.ProviderRateLimited) as caught:
        harness.ask()
    assert caught.value.retry_after == 99
    assert harness.used("t") == 0


def test_a_failure_goes_on_to_the_next_target_once() -> None:
    broken = Model(*[errors.ProviderUnavailable("x")] * 9)
    harness = GatewayHarness(a=("m", 0, broken, None), b=("m", 1, Model(), None))
    assert harness.ask().target == "b"
    assert broken.calls == 1


def test_retries_are_a_tenth_of_the_calls_once_the_reserve_is_gone() -> None:
    budget = RetryBudget()
    assert [budget.withdraw() for _ in range(11)] == [True] * 10 + [False]
    for _ in range(25):
        budget.deposit()
    assert [budget.withdraw() for _ in range(3)] == [True, True, False]


def test_without_a_retry_left_the_failure_is_told() -> None:
    harness = GatewayHarness(
        a=("m", 0, Model(errors.ProviderUnavailable("x")), None), b=("m", 1, Model(), None)
    )
    while harness.gateway._dispatcher.retry_budget.withdraw():
        pass
    with pytest.raises(errors.ProviderUnavailable):
        harness.ask()


def test_what_fails_before_an_answer_is_not_tried_again_after_its_first_piece() -> None:
    class Cut(Model):
        def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
            self.calls += 1
            yield [Chunk("half")]
            raise errors.ProviderGarbage("cut")

    model = Cut()
    harness = GatewayHarness(t=("m", 0, model, None), u=("m", 1, Model(), None))
    with pytest.raises(errors.ProviderGarbage):
        harness.stream()
    assert model.calls == 1


class Thinks(Model):
    """Counts before it says anything, and fails then for as long as it has errors."""

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        self.calls += 1
        yield [Chunk(usage=Usage(7, 0, thinking=40))]
        if self.failures:
            raise self.failures.pop(0)
        yield [Chunk("yes", usage=Usage(7, 1, thinking=40))]
        yield [Chunk(usage=Usage(7, 1, thinking=40), finish=Finish.STOP)]


def test_a_count_before_the_first_content_does_not_stand_in_the_way_of_another_try() -> None:
    tokens = Window("tpm", Count.TOKENS, 10_000, 60)
    model = Thinks(errors.ProviderUnavailable("overloaded"))
    harness = GatewayHarness(t=("m", 0, model, tokens), u=("m", 1, Model(), None))
    events = harness.stream()
    assert [type(it) for it in events] == [Started, Delta, Done]
    assert isinstance(events[-1], Done)
    assert events[-1].answer.target == "u"
    assert events[-1].answer.usage == Usage(1, 1)  # nothing of the first try's count is left over
    assert harness.used("t") == 47  # what the failed try had counted stays charged


def test_what_a_caller_did_not_stay_for_is_charged_by_what_was_said_and_teaches_nothing() -> None:
    class Talks(Model):
        def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
            yield [Chunk("hello ", usage=Usage(7, 1))]
            while True:
                yield [Chunk("and so on ")]

    harness = GatewayHarness(t=("m", 0, Talks(), Window("tpm", Count.TOKENS, 10_000, 60)))
    estimator = harness.gateway._dispatcher.estimator
    before = estimator.estimate("m", PROMPT).cost.output
    stream = harness.gateway.stream(RequestContext("r"), Request("", PROMPT))
    for _ in range(101):
        next(stream)
    stream.close()
    assert 150 < harness.used("t") < 400
    assert estimator.estimate("m", PROMPT).cost.output == before


def test_a_target_that_does_not_take_our_key_is_passed_over_and_then_rests() -> None:
    locked = Model(*[errors.ProviderAuth("x")] * 99)
    harness = GatewayHarness(a=("m", 0, locked, ONE), b=("m", 1, Model(), None))
    assert {harness.ask().target for _ in range(20)} == {"b"}
    assert locked.calls == 5
    assert harness.used("a") == 0


def test_a_target_alone_that_does_not_take_our_key_says_so() -> None:
    harness = GatewayHarness(a=("m", 0, Model(errors.ProviderAuth("x")), None))
    with pytest.raises(errors.ProviderAuth):
        harness.ask()


@pytest.mark.parametrize(
    ("quota_id", "hint", "closed_s"),
    [
        ("", None, 1),
        ("GenerateRequestsPerMinutePerProjectPerModel-FreeTier", None, 1),
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", None, 60),
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 7.5, 7.5),
        ("GenerateRequestsPerDayPerProjectPerModel-FreeTier", 10.0**14, 3600),
    ],
)
def test_a_429_closes_for_what_it_names_and_a_bare_one_for_a_second(
    quota_id: str, hint: float | None, closed_s: float
) -> None:
    refusal = errors.ProviderRateLimited("x", retry_after=hint, quota_id=quota_id)
    harness = GatewayHarness(patience=0.0, t=("m", 0, Model(refusal), ONE))
    with pytest.raises(errors.ProviderRateLimited):
        harness.ask()
    with pytest.raises(errors.Limited) as caught:
        harness.ask()
    assert caught.value.retry_after == pytest.approx(closed_s, abs=0.2)


def test_an_answer_without_a_count_is_charged_by_its_estimate_and_told_of() -> None:
    class Silent(Model):
        def complete(self, prompt: Prompt, timeout: float) -> Completion:
            return Completion((Text("one two three four"),), Finish.STOP)

    harness = GatewayHarness(t=("m", 0, Silent(), Window("tpm", Count.TOKENS, 1000, 60)))
    assert harness.ask().usage.output > 0
    assert 5 < harness.used("t") < 20
    assert harness.telemetry.uncounted_targets == ["t"]


def test_a_refusal_says_what_is_left_of_the_windows() -> None:
    harness = GatewayHarness(patience=0.0, t=("m", 0, Model(), ONE))
    harness.ask()
    with pytest.raises(errors.QuotaExhausted) as caught:
        harness.ask()
    assert [(it.name, it.remaining, it.unit) for it in caught.value.allowances] == [("rps", 0, "requests")]


def test_whoever_leaves_while_waiting_leaves_nothing_behind() -> None:
    harness = GatewayHarness(t=("m", 0, Model(), Window("rpm", Count.REQUESTS, 1, 20)))
    harness.ask()
    waiting = gevent.spawn(harness.ask)
    gevent.sleep(0.05)
    assert sum(it.waiting for it in harness.quota.queue_stats("t")) == 1
    waiting.kill(errors.ClientGone("left"))
    assert sum(it.waiting for it in harness.quota.queue_stats("t")) == 0
    assert harness.telemetry.records[-1].queue_outcome is QueueOutcome.CANCELLED
    assert harness.used("t") == 1


def test_a_turn_that_does_not_come_in_time_is_told_with_a_time_to_come_back() -> None:
    harness = GatewayHarness(0.5, t=("m", 0, Model(), Window("rps", Count.REQUESTS, 1, 1)))
    harness.ask()
    with pytest.raises(errors.DeadlineTooShort) as caught:
        harness.ask()
    assert 0.5 < (caught.value.retry_after or 0) < 1.5


def test_a_replica_that_ends_sends_its_waiters_away() -> None:
    harness = GatewayHarness(t=("m", 0, Model(), Window("rpm", Count.REQUESTS, 1, 20)))
    harness.ask()
    waiting = gevent.spawn(harness.ask)
    gevent.sleep(0.05)
    harness.quota.shut_down()
    with pytest.raises(errors.ShuttingDown):
        waiting.get(timeout=5)


def test_a_replica_without_resources_charges_nothing_and_blames_no_target() -> None:
    harness = GatewayHarness(t=("m", 0, Model(*[errors.HostExhausted("x")] * 9), ONE))
    for _ in range(9):
        with pytest.raises(errors.HostExhausted):
            harness.ask()
    assert harness.used("t") == 0
    assert harness.ask().target == "t"


def test_every_target_resting_is_unavailable_and_says_for_how_long() -> None:
    harness = GatewayHarness(t=("m", 0, Model(*[errors.ProviderUnavailable("x")] * 9), None))
    for _ in range(5):
        with pytest.raises(errors.ProviderUnavailable):
            harness.ask()
    with pytest.raises(errors.CircuitOpen) as caught:
        harness.ask()
    assert 0 < (caught.value.retry_after or 0) <= 5


ODD = [
    errors.ProviderRejected("no", status=400),
    errors.ProviderRejected("no", status=404),
    errors.ContentBlocked("no"),
    errors.ProviderGarbage("what?"),
    errors.ProviderUnavailable("the provider failed (500)", status=500),
    errors.ProviderAuth("not this", status=403),
    errors.ProviderTimeout("late"),
]


@pytest.mark.parametrize("failure", ODD, ids=lambda it: f"{it.code} {getattr(it, 'status', '')}")
def test_one_callers_odd_prompts_never_close_a_target_for_others(failure: errors.KnowalledgeError) -> None:
    model = Model(*[failure] * 40)
    harness = GatewayHarness(t=("m", 0, model, None))
    for _ in range(40):
        with pytest.raises(type(failure)):
            harness.ask(timeout_s=1.0)
    assert harness.ask().target == "t"


@pytest.mark.parametrize("failure", ODD[:3], ids=lambda it: f"{it.code} {getattr(it, 'status', '')}")
def test_a_request_at_fault_is_never_sent_twice(failure: errors.KnowalledgeError) -> None:
    model, other = Model(failure), Model()
    harness = GatewayHarness(t=("m", 0, model, ONE), u=("m", 1, other, None))
    with pytest.raises(type(failure)):
        harness.ask()
    assert (model.calls, other.calls) == (1, 0)


def test_a_target_that_fails_oddly_is_called_after_all_others_and_first_again_when_it_works() -> None:
    model, other = Model(*[errors.ProviderGarbage("x")] * 5), Model()
    harness = GatewayHarness(t=("m", 0, model, None), u=("m", 1, other, None))
    assert [harness.ask().target for _ in range(6)] == ["u"] * 6
    assert model.calls == 5  # each request went to it first, until it was suspected
