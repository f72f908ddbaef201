"""One suite over both stores of what is popular: counts that add up, and the rests of what failed."""

import gevent
import pytest
from redis import Redis

from knowalledge.net.redis.breaker import RedisBreaker
from knowalledge.topics.popularity.memory import MemoryPopularity
from knowalledge.topics.popularity.redis import RedisPopularity
from knowalledge.topics.ports import Popularity
from tests.support.doubles import ManualClock


@pytest.fixture(params=["memory", "redis"])
def popularity(request: pytest.FixtureRequest, clock: ManualClock) -> Popularity:
    if request.param == "memory":
        return MemoryPopularity(clock, 3600, 50)
    return RedisPopularity(request.getfixturevalue("redis_client"), RedisBreaker(clock), 3600, 50)


def test_counts_add_up_are_ordered_and_bounded(popularity: Popularity) -> None:
    assert popularity.count({"a": 6, "b": 30}, 10) == ("b",)
    assert popularity.count({"a": 6}, 10) == ("b", "a")
    popularity.count({f"x{index}": 40 + index for index in range(60)}, 10)
    left = popularity.count({}, 0.5)
    assert len(left) == 50
    assert left[0] == "x59"
    assert "a" not in left
    assert len(popularity.count({f"y{index}": 0.2 for index in range(1000)}, 10)) == 50


def test_a_rest_grows_old_and_is_known_for_a_while_after_it(
    popularity: Popularity, clock: ManualClock
) -> None:
    assert popularity.backoffs() == {}
    popularity.back_off("a", 30, 600)
    popularity.back_off("b", 0.04, 60)
    popularity.back_off("c", 0.02, 0.02)
    popularity.back_off("d", 60, 0)
    gevent.sleep(0.05)
    clock.sleep(0.05)
    found = popularity.backoffs()
    assert {name: it.length_s for name, it in found.items()} == {"a": 30, "b": 0.04, "d": 60}
    assert 0.04 <= found["b"].age_s < 30
    assert [found[name].is_over for name in "abd"] == [False, True, False]


def test_a_rest_that_begins_again_is_the_new_one_and_one_that_is_forgotten_is_gone(
    popularity: Popularity, clock: ManualClock
) -> None:
    popularity.back_off("a", 0.02, 60)
    popularity.back_off("b", 30, 600)
    gevent.sleep(0.03)
    clock.sleep(0.03)
    popularity.back_off("a", 60, 600)
    assert popularity.backoffs()["a"].length_s == 60
    assert not popularity.backoffs()["a"].is_over
    popularity.forget("a")
    popularity.forget("never known")
    assert list(popularity.backoffs()) == ["b"]


def test_of_too_many_rests_those_are_lost_that_would_be_forgotten_first(popularity: Popularity) -> None:
    for index in (37 * step % 60 for step in range(60)):
        popularity.back_off(f"x{index}", 100 * (index + 1), 600)
    popularity.back_off("x59", 9000, 600)  # known already: nobody's place
    assert set(popularity.backoffs()) == {f"x{index}" for index in range(10, 60)}


def test_rests_do_not_outlive_their_use_in_redis(redis_client: Redis, clock: ManualClock) -> None:
    popularity = RedisPopularity(redis_client, RedisBreaker(clock), 3600, 50)
    popularity.back_off("a", 600, 600)
    popularity.back_off("b", 30, 600)
    (key,) = redis_client.keys()
    assert 1190 < redis_client.ttl(key) <= 1200


def test_without_redis_nothing_rests_and_nothing_is_raised(clock: ManualClock) -> None:
    popularity = RedisPopularity(Redis(port=1), RedisBreaker(clock), 3600, 50)
    popularity.back_off("a", 30, 600)
    popularity.forget("a")
    assert popularity.backoffs() == {}
