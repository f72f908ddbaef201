"""Popular questions: counted over replicas, made anew ahead of their end, with quota to spare, once."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import gevent
import pytest
from redis import Redis

from knowalledge.caching.domain import Lifetimes
from knowalledge.caching.layers import Layer, Layers
from knowalledge.caching.memory import MemoryResponseCache
from knowalledge.caching.read_through import ReadThrough
from knowalledge.caching.redis import RedisResponseCache
from knowalledge.caching.singleflight.memory import MemoryFlights
from knowalledge.core.context import Priority, RequestContext
from knowalledge.core.errors import (
    CircuitOpen,
    ContentBlocked,
    ProviderRateLimited,
    ProviderRejected,
    ProviderTimeout,
    ProviderUnavailable,
    QueueTimeout,
    QuotaExhausted,
    ShuttingDown,
)
from knowalledge.gateway.domain.answer import Answer
from knowalledge.gateway.domain.request import Request
from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.topics import prompt_files as prompts
from knowalledge.topics.domain import TopicQuery, parse_query
from knowalledge.topics.popularity.memory import MemoryPopularity
from knowalledge.topics.popularity.redis import RedisPopularity
from knowalledge.topics.ports import Popularity
from knowalledge.topics.service import Topics
from knowalledge.topics.warming import Warming
from tests.support.doubles import ManualClock, RecordingTelemetry
from tests.support.fake_provider import FakeProvider

ASKER = RequestContext("id")
LIGHT = parse_query("related", "light", {})


class Models:
    def __init__(self) -> None:
        self.provider = FakeProvider()
        self.contexts: list[RequestContext] = []
        self.answering = ""  # the model that answers, if it is another one

    def complete(self, context: RequestContext, request: Request) -> Answer:
        self.contexts.append(context)
        completion = self.provider.complete(request.prompt, 1.0)
        assert completion.usage is not None
        return Answer(context.request_id, self.answering or request.model, "t", completion, completion.usage)


class Replica:
    def __init__(
        self,
        clock: ManualClock,
        models: Models,
        popularity: Popularity,
        shared: Any = None,
        life_s: float = 3600,
        flights: MemoryFlights | None = None,
    ) -> None:
        self.spare = True
        lifetimes = Lifetimes(600, life_s, 3600)
        memory = MemoryResponseCache(1024**2, clock)
        layers = (Layer("memory", memory), *((Layer("redis", shared),) if shared is not None else ()))
        self.layers = Layers(layers, lifetimes, clock, RecordingTelemetry())
        self.topics = Topics(
            models,
            ReadThrough(self.layers, flights or MemoryFlights(clock), clock),
            clock,
            prompts.load(),
            "m",
            RecordingTelemetry(),
            lambda asked: self.warming.record_query(asked),
        )
        self.warming = Warming(self.topics, popularity, clock, life_s, lambda: self.spare, lambda: "id")

    def fresh(self, asked: TopicQuery = LIGHT) -> bool:
        return self.layers.peek(self.topics.key(asked)).fresh

    def ask(self, times: int, asked: TopicQuery = LIGHT) -> None:
        for _ in range(times):
            self.topics.get(asked, ASKER)


def sharing(number: int, clock: ManualClock, models: Models, redis: Redis, **more: Any) -> list[Replica]:
    """Replicas that share a Redis."""
    outage = RedisBreaker(clock)
    return [
        Replica(
            clock,
            models,
            RedisPopularity(redis, outage, 3600, 1000),
            RedisResponseCache(redis, outage),
            **more,
        )
        for _ in range(number)
    ]


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def replica(clock: ManualClock, models: Models) -> Replica:
    return Replica(clock, models, MemoryPopularity(clock, 3600, 1000))


def test_after_ten_requests_an_answer_is_made_anew_before_it_ends_at_low_priority(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    replica.ask(10)
    assert replica.warming.round() == 0
    clock.sleep(2800)  # by now they count less than ten
    replica.ask(5)
    assert replica.warming.round() == 0
    clock.sleep(100)
    assert replica.warming.round() == 1
    assert [it.priority for it in models.contexts] == [Priority.MEDIUM, Priority.LOW]
    clock.sleep(1000)  # past the first one's end
    assert replica.topics.get(LIGHT, ASKER).cache.status == "hit"
    assert replica.warming.round() == 0


def test_nine_requests_are_not_popular_and_old_ones_count_less(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    replica.ask(9)
    replica.warming.round()
    assert not list(replica.warming.popular)
    replica.ask(2)
    replica.warming.round()
    assert replica.warming.popular == (LIGHT,)
    clock.sleep(3600)
    replica.warming.round()
    assert not list(replica.warming.popular)


def test_what_callers_have_made_already_is_not_made_twice(replica: Replica, models: Models) -> None:
    models.provider.latency_s = 0.05
    callers = [gevent.spawn(replica.ask, 1) for _ in range(20)]
    gevent.sleep(0.01)
    assert replica.warming.round() == 0
    gevent.joinall(callers, raise_error=True)
    assert replica.warming.popular == (LIGHT,)
    assert models.provider.calls == 1


def test_what_was_taken_back_while_it_is_popular_is_made_anew(replica: Replica, models: Models) -> None:
    replica.ask(20)
    replica.layers.invalidate("topic:light", "me")
    assert replica.warming.round() == 1
    assert models.provider.calls == 2


def test_without_quota_to_spare_nothing_is_made_anew(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    replica.ask(20)
    clock.sleep(3000)
    replica.spare = False
    assert replica.warming.round() == 0
    assert len(models.contexts) == 1


def test_a_failure_leaves_the_old_answer_and_after_a_rest_it_is_tried_again(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    replica.ask(40)
    clock.sleep(3000)
    models.provider.error = ProviderUnavailable("x")
    assert replica.warming.round() == 0
    assert replica.topics.get(LIGHT, ASKER).cache.status == "hit"
    models.provider.error = None
    assert replica.warming.round() == 0
    clock.sleep(30)
    assert replica.warming.round() == 1


def tries(replica: Replica, clock: ManualClock, models: Models, seconds: float) -> list[float]:
    """Let rounds go by while everybody asks: how long after the beginning the provider was called each time."""
    began, found = clock.now(), []
    while clock.now() - began < seconds:
        before = models.provider.calls
        replica.warming.record_query(LIGHT)
        replica.warming.round()
        found += [clock.now() - began] * (models.provider.calls - before)
        clock.sleep(5)
    return found


def failing(replica: Replica, clock: ManualClock, models: Models, error: Exception) -> None:
    replica.ask(40)
    clock.sleep(3000)
    models.provider.error = error


@pytest.mark.parametrize(
    "error", [ProviderUnavailable("x"), ProviderRejected("x"), ContentBlocked("x"), ProviderTimeout("x")]
)
def test_what_always_fails_rests_twice_as_long_each_time_up_to_ten_minutes(
    replica: Replica, clock: ManualClock, models: Models, error: Exception
) -> None:
    failing(replica, clock, models, error)
    begun = tries(replica, clock, models, 3600)
    gaps = [after - before for before, after in pairwise(begun)]
    assert gaps == [30, 60, 120, 240, 480, 600, 600, 600, 600]


def test_an_answer_that_never_fits_its_schema_rests_too(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    replica.ask(40)
    clock.sleep(3000)
    models.provider.answers = ["nothing"] * 100
    assert tries(replica, clock, models, 120) == [0, 0, 30, 30, 90, 90]  # each time once more to be repaired


def test_the_answer_of_a_fallback_is_not_kept_so_it_is_not_fetched_every_round(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    replica.ask(40)
    clock.sleep(3000)
    models.answering = "fallback"
    assert tries(replica, clock, models, 120) == [0, 30, 90]
    models.answering = ""
    clock.sleep(120)
    assert replica.warming.round() == 1


def test_after_a_success_the_next_rest_is_short_again(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    failing(replica, clock, models, ProviderUnavailable("x"))
    assert tries(replica, clock, models, 100) == [0, 30, 90]
    models.provider.error = None
    assert tries(replica, clock, models, 115) == [110]
    replica.layers.invalidate("topic:light", "test")  # due at once
    models.provider.error = ProviderUnavailable("x")
    assert tries(replica, clock, models, 60) == [0, 30]


def test_a_rest_is_over_when_a_caller_has_it_made(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    failing(replica, clock, models, ProviderUnavailable("x"))
    assert tries(replica, clock, models, 100) == [0, 30, 90]
    models.provider.error = None
    replica.layers.invalidate("topic:light", "test")
    replica.ask(1)
    assert replica.warming.round() == 0
    replica.layers.invalidate("topic:light", "test")
    assert replica.warming.round() == 1


@pytest.mark.parametrize(
    "error",
    [QuotaExhausted("x"), QueueTimeout("x"), CircuitOpen("x"), ShuttingDown("x"), ProviderRateLimited("x")],
)
def test_a_refusal_for_want_of_quota_is_no_failure_of_the_question(
    replica: Replica, clock: ManualClock, models: Models, error: Exception
) -> None:
    failing(replica, clock, models, error)
    assert tries(replica, clock, models, 20) == [0, 5, 10, 15]
    models.provider.error = ProviderUnavailable("x")
    assert tries(replica, clock, models, 30) == [0]
    models.provider.error = error
    assert tries(replica, clock, models, 10) == [0, 5]  # the rest of 30 s is over, and did not become longer
    models.provider.error = ProviderUnavailable("x")
    assert tries(replica, clock, models, 80) == [0, 60]


def test_without_quota_to_spare_a_rest_neither_begins_nor_grows(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    failing(replica, clock, models, ProviderUnavailable("x"))
    replica.spare = False
    assert tries(replica, clock, models, 60) == []
    replica.spare = True
    assert tries(replica, clock, models, 60) == [0, 30]


def test_one_that_fails_keeps_none_of_the_others_and_at_most_four_are_tried_in_a_round(
    replica: Replica, clock: ManualClock, models: Models
) -> None:
    asked = [parse_query("related", f"topic {index}", {}) for index in range(10)]
    for question in asked:
        replica.ask(40, question)
    clock.sleep(3000)
    models.provider.error = ProviderRejected("x")
    begun = [models.provider.calls]
    for _ in range(4):
        assert replica.warming.round() == 0
        begun.append(models.provider.calls)
    assert [after - before for before, after in pairwise(begun)] == [4, 4, 2, 0]
    clock.sleep(30)
    models.provider.error = None
    assert [replica.warming.round() for _ in range(4)] == [4, 4, 2, 0]


def test_to_know_what_rests_takes_one_look_a_round_and_none_at_the_quota(
    clock: ManualClock, models: Models, monkeypatch: pytest.MonkeyPatch
) -> None:
    popularity = MemoryPopularity(clock, 3600, 1000)
    replica = Replica(clock, models, popularity)
    failing(replica, clock, models, ProviderRejected("x"))
    replica.warming.round()
    looks: list[str] = []
    backoffs = popularity.backoffs
    monkeypatch.setattr(popularity, "backoffs", lambda: looks.append("backoffs") or backoffs())
    monkeypatch.setattr(replica.warming, "_has_spare_quota", lambda: looks.append("spare") or True)
    replica.warming.round()
    assert looks == ["backoffs"]


def test_what_failed_in_one_replica_is_tried_by_none_of_the_others(
    clock: ManualClock, models: Models, redis_client: Redis
) -> None:
    replicas = sharing(3, clock, models, redis_client)
    failing(replicas[0], clock, models, ProviderRejected("x"))
    for _ in range(3):
        assert [it.warming.round() for it in replicas] == [0, 0, 0]
    assert models.provider.calls == 2


def test_what_failed_elsewhere_while_a_round_was_under_way_is_not_tried_in_it(
    clock: ManualClock, models: Models, redis_client: Redis
) -> None:
    outage = RedisBreaker(clock)
    here, there = (RedisPopularity(redis_client, outage, 3600, 1000) for _ in range(2))
    replica = Replica(clock, models, here)
    for topic, times in (("light", 40), ("dark", 30)):
        replica.ask(times, parse_query("related", topic, {}))
    assert replica.warming.round() == 0
    clock.sleep(3000)
    (dark,) = there.count({}, 10)[1:]
    models.provider.latency_s, models.provider.wait = 1, lambda _: there.back_off(dark, 30, 600)
    assert replica.warming.round() == 1


def test_to_have_waited_for_quota_until_the_end_is_told_as_that(replica: Replica, models: Models) -> None:
    models.provider.error = QueueTimeout("x")
    models.provider.latency_s = 0.03
    with pytest.raises(QueueTimeout):
        replica.topics.refresh(LIGHT, RequestContext("id", timeout_s=0.02), 60)


def test_an_answer_that_was_taken_back_is_made_again(replica: Replica, models: Models) -> None:
    replica.ask(12)
    replica.layers.invalidate("topic:light", "test")
    assert replica.warming.round() == 1


def test_replicas_count_together_and_one_of_them_makes_it_anew(
    clock: ManualClock, models: Models, redis_client: Redis
) -> None:
    replicas = sharing(3, clock, models, redis_client)
    for it in replicas:
        it.ask(8)
        it.warming.round()
    clock.sleep(3000)  # the replicas' clock; Redis counts by its own
    for it in replicas:
        it.ask(1)
    assert sum(it.warming.round() for it in replicas) == 1
    assert len(models.contexts) == 2


def test_replicas_make_different_answers_at_the_same_time_and_none_waits_for_another(
    clock: ManualClock, models: Models, redis_client: Redis
) -> None:
    replicas = sharing(2, clock, models, redis_client, flights=MemoryFlights(clock))
    asked = [parse_query("related", topic, {}) for topic in ("light", "dark")]
    for question in asked:
        replicas[0].ask(20, question)
    clock.sleep(3000)
    at_once, most = 0, 0

    def making(seconds: float) -> None:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        gevent.sleep(seconds)
        at_once -= 1

    models.provider.latency_s, models.provider.wait = 0.1, making
    rounds = [gevent.spawn(it.warming.round) for it in replicas]
    gevent.joinall(rounds, raise_error=True)
    assert [it.get() for it in rounds] == [1, 1]
    assert (most, models.provider.calls) == (2, 4)


def test_a_popular_name_of_another_version_is_passed_over(replica: Replica, models: Models) -> None:
    replica.warming._popularity.count({"not a question": 99.0, '{"view": 3}': 99.0}, 10)
    replica.ask(10)
    replica.warming.round()
    assert replica.warming.popular == (LIGHT,)


def landings(
    replicas: Sequence[Replica],
    clock: ManualClock,
    models: Models,
    takes: float,
    until: float,
    asked: Sequence[TopicQuery],
) -> list[tuple[float, bool]]:
    """Let rounds go by in turn while everything is asked about: when each answer was there that was made anew, and
    whether all answers before it were still fresh.
    """
    found: list[tuple[float, bool]] = []

    def making(seconds: float) -> None:
        clock.sleep(seconds)
        found.append((clock.now(), all(it.fresh(question) for it in replicas for question in asked)))

    for question in asked:
        for replica in replicas:
            replica.ask(12, question)
    models.contexts.clear()
    models.provider.latency_s, models.provider.wait = takes, making
    while clock.now() < until:
        for replica in replicas:
            replica.warming.round()
            clock.sleep(replica.warming.round_s / len(replicas))
            for question in asked:
                replica.warming.record_query(question)
    assert {it.priority for it in models.contexts} == {Priority.LOW}
    return found


@pytest.mark.parametrize(
    ("life_s", "takes"), [(5, 1), (8, 3), (10, 3), (16, 3), (20, 1), (24, 3), (40, 3), (90, 3), (900, 3)]
)
def test_however_short_its_life_an_answer_is_there_before_the_last_one_ends(
    clock: ManualClock, models: Models, life_s: float, takes: float
) -> None:
    replica = Replica(clock, models, MemoryPopularity(clock, 3600, 1000), life_s=life_s)
    found = landings([replica], clock, models, takes, clock.now() + 12 * life_s, [LIGHT])
    assert all(fresh for _, fresh in found)
    assert 11 <= len(found) <= 12 / 0.5  # not made all the time either


def test_an_answer_that_takes_longer_than_was_thought_is_begun_sooner_from_then_on(
    clock: ManualClock, models: Models
) -> None:
    replica = Replica(clock, models, MemoryPopularity(clock, 3600, 1000), life_s=20)
    found = landings([replica], clock, models, 9, clock.now() + 200, [LIGHT])
    assert [fresh for _, fresh in found] == [False] + [True] * (len(found) - 1)
    later = landings([replica], clock, models, 0.5, clock.now() + 2000, [LIGHT])
    gaps = [after - before for (before, _), (after, _) in pairwise(later)]
    assert gaps[0] < 12 < 15 < gaps[-1]  # and later again once it takes less


def test_several_that_end_at_once_are_begun_early_enough_for_the_last_of_them(
    clock: ManualClock, models: Models
) -> None:
    replica = Replica(clock, models, MemoryPopularity(clock, 3600, 1000), life_s=24)
    asked = [parse_query("related", topic, {}) for topic in ("light", "dark", "sound", "heat")]
    found = landings([replica], clock, models, 3, clock.now() + 480, asked)
    assert all(fresh for _, fresh in found[4:])
    assert len(found) >= 4 * 19


def test_an_answer_of_a_short_life_is_made_anew_once_over_all_replicas(
    clock: ManualClock, models: Models, redis_client: Redis
) -> None:
    replicas = sharing(3, clock, models, redis_client, life_s=10)
    found = landings(replicas, clock, models, 1, clock.now() + 200, [LIGHT])
    assert all(fresh for _, fresh in found)
    assert min(after - before for (before, _), (after, _) in pairwise(found)) >= 5


def test_an_answer_that_takes_longer_than_it_lives_is_not_made_without_end(
    clock: ManualClock, models: Models
) -> None:
    replica = Replica(clock, models, MemoryPopularity(clock, 3600, 1000), life_s=4)
    found = landings([replica], clock, models, 6, clock.now() + 400, [LIGHT])
    assert min(after - before for (before, _), (after, _) in pairwise(found)) >= 6 + 1


def test_short_lives_too_are_renewed_with_spare_quota_only(clock: ManualClock, models: Models) -> None:
    replica = Replica(clock, models, MemoryPopularity(clock, 3600, 1000), life_s=10)
    replica.ask(20)
    replica.spare = False
    for _ in range(20):
        assert replica.warming.round() == 0
        clock.sleep(replica.warming.round_s)
    assert len(models.contexts) == 1


@pytest.mark.parametrize(("life_s", "round_s"), [(3600, 5), (50, 5), (25, 2.5), (10, 1), (5, 0.5), (1, 0.5)])
def test_rounds_follow_the_life_of_answers(
    clock: ManualClock, models: Models, life_s: float, round_s: float
) -> None:
    replica = Replica(clock, models, MemoryPopularity(clock, 3600, 1000), life_s=life_s)
    assert replica.warming.round_s == round_s
