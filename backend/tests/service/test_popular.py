"""Popular questions: counted over replicas, made anew ahead of their end, with quota to spare, once."""

from typing import Any

import gevent
import pytest
from redis import Redis

from knowalledge.adapters.memory.flights import MemoryFlights
from knowalledge.adapters.memory.popularity import MemoryPopularity
from knowalledge.adapters.memory.response_cache import MemoryResponseCache
from knowalledge.adapters.redis.outage import Outage
from knowalledge.adapters.redis.popularity import RedisPopularity
from knowalledge.adapters.redis.response_cache import RedisResponseCache
from knowalledge.domain.caching import Lifetimes
from knowalledge.domain.errors import ProviderUnavailable
from knowalledge.domain.model import Answer, Priority, Request
from knowalledge.domain.ports import Popularity
from knowalledge.domain.topics import Query, query
from knowalledge.service import prompts
from knowalledge.service.layers import Layers
from knowalledge.service.popular import Popular
from knowalledge.service.topics import Asker, Topics
from tests.fakes import Hands, Told
from tests.knowing import Knowing

ASKER = Asker("id")
LIGHT = query("related", "light", {})


class Models:
    def __init__(self) -> None:
        self.provider = Knowing()
        self.seen: list[Request] = []

    def complete(self, request: Request) -> Answer:
        self.seen.append(request)
        completion = self.provider.complete(request.prompt, 1.0)
        assert completion.usage is not None
        return Answer(request.id, request.model, "t", completion, completion.usage)


class Replica:
    def __init__(self, clock: Hands, models: Models, popularity: Popularity, shared: Any = None) -> None:
        self.spare = True
        lifetimes = Lifetimes(600, 3600, 3600)
        memory = MemoryResponseCache(1024**2, clock)
        self.layers = Layers(memory, shared, lifetimes, clock, Told())
        self.topics = Topics(
            models,
            self.layers,
            MemoryFlights(clock),
            clock,
            prompts.load(),
            "m",
            Told(),
            lambda asked: self.popular.asked(asked),
        )
        self.popular = Popular(self.topics, popularity, clock, 3600, lambda: self.spare, lambda: "id")

    def ask(self, times: int, asked: Query = LIGHT) -> None:
        for _ in range(times):
            self.topics.get(asked, ASKER)


@pytest.fixture
def models() -> Models:
    return Models()


@pytest.fixture
def replica(clock: Hands, models: Models) -> Replica:
    return Replica(clock, models, MemoryPopularity(clock, 3600, 1000))


def test_after_ten_requests_an_answer_is_made_anew_before_it_ends_at_low_priority(
    replica: Replica, clock: Hands, models: Models
) -> None:
    replica.ask(10)
    assert replica.popular.round() == 0
    clock.sleep(2800)  # by now they count less than ten
    replica.ask(5)
    assert replica.popular.round() == 0
    clock.sleep(100)
    assert replica.popular.round() == 1
    assert [it.priority for it in models.seen] == [Priority.MEDIUM, Priority.LOW]
    clock.sleep(1000)  # past the first one's end
    assert replica.topics.get(LIGHT, ASKER).cache.status == "hit"
    assert replica.popular.round() == 0


def test_nine_requests_are_not_popular_and_old_ones_count_less(
    replica: Replica, clock: Hands, models: Models
) -> None:
    replica.ask(9)
    replica.popular.round()
    assert replica.popular.known == ()
    replica.ask(2)
    replica.popular.round()
    assert replica.popular.known == (LIGHT,)
    clock.sleep(3600)
    replica.popular.round()
    assert replica.popular.known == ()


def test_what_callers_have_made_already_is_not_made_twice(replica: Replica, models: Models) -> None:
    models.provider.takes = 0.05
    callers = [gevent.spawn(replica.ask, 1) for _ in range(20)]
    gevent.sleep(0.01)
    assert replica.popular.round() == 0
    gevent.joinall(callers, raise_error=True)
    assert replica.popular.known == (LIGHT,)
    assert models.provider.calls == 1


def test_what_was_taken_back_while_it_is_popular_is_made_anew(replica: Replica, models: Models) -> None:
    replica.ask(20)
    replica.layers.invalidate("topic:light", "me")
    assert replica.popular.round() == 1
    assert models.provider.calls == 2


def test_without_quota_to_spare_nothing_is_made_anew(replica: Replica, clock: Hands, models: Models) -> None:
    replica.ask(20)
    clock.sleep(3000)
    replica.spare = False
    assert replica.popular.round() == 0
    assert len(models.seen) == 1


def test_a_failure_leaves_the_old_answer_and_the_next_round_tries_again(
    replica: Replica, clock: Hands, models: Models
) -> None:
    replica.ask(40)
    clock.sleep(3000)
    models.provider.error = ProviderUnavailable("x")
    assert replica.popular.round() == 0
    assert replica.topics.get(LIGHT, ASKER).cache.status == "hit"
    models.provider.error = None
    assert replica.popular.round() == 1


def test_an_answer_that_was_taken_back_is_made_again(replica: Replica, models: Models) -> None:
    replica.ask(12)
    replica.layers.invalidate("topic:light", "test")
    assert replica.popular.round() == 1


def test_replicas_count_together_and_one_of_them_makes_it_anew(
    clock: Hands, models: Models, redis_client: Redis
) -> None:
    outage = Outage(clock)
    replicas = [
        Replica(
            clock,
            models,
            RedisPopularity(redis_client, outage, 3600, 1000),
            RedisResponseCache(redis_client, outage),
        )
        for _ in range(3)
    ]
    for it in replicas:
        it.ask(8)
        it.popular.round()
    clock.sleep(3000)  # the replicas' clock; Redis counts by its own
    for it in replicas:
        it.ask(1)
    assert sum(it.popular.round() for it in replicas) == 1
    assert len(models.seen) == 2


@pytest.fixture(params=["memory", "redis"])
def popularity(request: pytest.FixtureRequest, clock: Hands) -> Popularity:
    if request.param == "memory":
        return MemoryPopularity(clock, 3600, 50)
    return RedisPopularity(request.getfixturevalue("redis_client"), Outage(clock), 3600, 50)


def test_counts_add_up_are_ordered_and_bounded(popularity: Popularity) -> None:
    assert popularity.count({"a": 6, "b": 30}, 10) == ("b",)
    assert popularity.count({"a": 6}, 10) == ("b", "a")
    popularity.count({f"x{index}": 40 + index for index in range(60)}, 10)
    left = popularity.count({}, 0.5)
    assert len(left) == 50
    assert left[0] == "x59"
    assert "a" not in left
    assert len(popularity.count({f"y{index}": 0.2 for index in range(1000)}, 10)) == 50


def test_a_popular_name_of_another_version_is_passed_over(replica: Replica, models: Models) -> None:
    replica.popular._popularity.count({"not a question": 99.0, '{"view": 3}': 99.0}, 10)
    replica.ask(10)
    replica.popular.round()
    assert replica.popular.known == (LIGHT,)
