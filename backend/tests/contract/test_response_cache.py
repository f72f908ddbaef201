"""One suite over every layer, and the two layers together held against a plain model, step by step."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis import Redis

from knowalledge.caching.domain import CacheEntry, Key, Lifetimes, pack, parse_pattern
from knowalledge.caching.layers import Layer, Layers
from knowalledge.caching.memory import MemoryResponseCache
from knowalledge.caching.ports import LayerSize, ResponseCache
from knowalledge.caching.redis import RedisResponseCache
from knowalledge.core.errors import Unavailable
from knowalledge.net.redis.breaker import RedisBreaker
from tests.support.doubles import ManualClock, RecordingTelemetry
from tests.support.properties import examples


def topic(name: str, view: str = "whole") -> Key:
    return Key.of(f"topic:{name}:{view}", "topic", f"topic:{name}")


@pytest.fixture(params=["memory", "redis"])
def cache(request: pytest.FixtureRequest, clock: ManualClock) -> ResponseCache:
    if request.param == "memory":
        return MemoryResponseCache(4 * 1024**2, clock)
    client: Redis = request.getfixturevalue("redis_client")
    return RedisResponseCache(client, RedisBreaker(clock))


def fill(cache: ResponseCache, key: Key, body: bytes = b"x", seconds: float = 60.0) -> None:
    cache.put(key, CacheEntry(body, '"e"', 0.0, generation=cache.get(key).generation), seconds)


def held(cache: ResponseCache, key: Key) -> bytes | None:
    entry = cache.get(key).entry
    return entry.body if entry else None


def take(cache: ResponseCache, pattern: str) -> int:
    return cache.invalidate(parse_pattern(pattern), "test")


@pytest.mark.parametrize("size", [1, 900, 5_000, 200_000])
def test_what_was_put_comes_back_as_it_was(cache: ResponseCache, size: int) -> None:
    key = topic("a")
    generation = cache.get(key).generation
    entry = CacheEntry(b"ab" * (size // 2) + b"c", '"e"', 12.5, generation, "m", 7, 90)
    cache.put(key, entry, 60)
    assert cache.get(key).entry == entry


def test_what_was_never_put_is_not_there(cache: ResponseCache) -> None:
    fill(cache, topic("a"))
    assert held(cache, topic("b")) is None


def test_a_tag_takes_back_what_carries_it_and_nothing_else_and_says_how_many(cache: ResponseCache) -> None:
    for name in ("a", "b"):
        for view in ("whole", "quiz"):
            fill(cache, topic(name, view))
    assert take(cache, "topic:a") == 2
    assert [held(cache, topic("a", "whole")), held(cache, topic("a", "quiz"))] == [None, None]
    assert held(cache, topic("b")) == b"x"
    assert take(cache, "topic:a") == 0


def test_a_name_takes_back_one(cache: ResponseCache) -> None:
    fill(cache, topic("a", "quiz"))
    fill(cache, topic("a", "whole"))
    assert take(cache, "topic:a:quiz") == 1
    assert (held(cache, topic("a", "quiz")), held(cache, topic("a", "whole"))) == (None, b"x")


@pytest.mark.parametrize(
    ("pattern", "left"),
    [
        ("*", set()),
        ("topic:*", {"answer:x"}),
        ("topic:a*", {"topic:b:whole", "answer:x"}),
        ("topic:*:quiz", {"topic:a:whole", "topic:b:whole", "answer:x"}),
        ("*:x", {"topic:a:whole", "topic:a:quiz", "topic:b:whole"}),
        ("topic:nothing", {"topic:a:whole", "topic:a:quiz", "topic:b:whole", "answer:x"}),
    ],
)
def test_a_pattern_takes_back_what_matches(cache: ResponseCache, pattern: str, left: set[str]) -> None:
    keys = [topic("a"), topic("a", "quiz"), topic("b"), Key.of("answer:x", "answer")]
    for key in keys:
        fill(cache, key)
    assert take(cache, pattern) == len(keys) - len(left)
    assert {key.name for key in keys if held(cache, key)} == left


@pytest.mark.parametrize("pattern", ["*", "topic:*", "topic:a", "topic:a:whole", "topic:a*", "*a*"])
def test_an_answer_on_its_way_when_its_tag_is_taken_back_is_never_served(
    cache: ResponseCache, pattern: str
) -> None:
    key = topic("a")
    generation = cache.get(key).generation
    take(cache, pattern)
    cache.put(key, CacheEntry(b"old", '"e"', 0.0, generation), 60)
    assert held(cache, key) is None
    fill(cache, key, b"new")
    assert held(cache, key) == b"new"


def test_invalidating_more_than_one_portion_counts_and_removes_them_all(cache: ResponseCache) -> None:
    generation = cache.get(topic("0")).generation
    for index in range(1203):
        cache.put(topic(str(index)), CacheEntry(b"", "", 0.0, generation), 60)
    assert take(cache, "topic:*") == 1203
    assert cache.size().entries == 0


def test_size_counts_entries_and_bytes(cache: ResponseCache) -> None:
    fill(cache, topic("a"), bytes(300))
    fill(cache, topic("b"), bytes(300))
    size = cache.size()
    assert size.entries == 2
    assert size.bytes >= 600


# -- memory ------------------------------------------------------------------------------------------


def test_memory_never_holds_more_bytes_than_its_room_whoever_asks_for_however_many_topics(
    clock: ManualClock,
) -> None:
    memory = MemoryResponseCache(100_000, clock)
    for index in range(5_000):
        fill(memory, topic(str(index)), bytes(index % 7000))
        assert memory.size().bytes <= 100_000
    assert memory.size().evictions > 4_000
    fill(memory, topic("large"), bytes(200_000))
    assert held(memory, topic("large")) is None


def test_memory_lets_go_at_the_end_of_an_entrys_time(clock: ManualClock) -> None:
    memory = MemoryResponseCache(100_000, clock)
    fill(memory, topic("a"), seconds=10)
    clock.sleep(9.9)
    assert held(memory, topic("a")) == b"x"
    clock.sleep(0.1)
    assert held(memory, topic("a")) is None
    assert memory.size().entries == 0


# -- redis -------------------------------------------------------------------------------------------


@pytest.fixture
def shared(redis_client: Redis, clock: ManualClock) -> RedisResponseCache:
    return RedisResponseCache(redis_client, RedisBreaker(clock))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda data: b"",
        lambda data: data[:-1],
        lambda data: b"kn0" + data[3:],
        lambda data: data[:20] + bytes([data[20] ^ 1]) + data[21:],
        lambda data: b"\xff" * 50,
    ],
)
def test_a_corrupt_or_older_entry_is_a_miss_and_counted(
    shared: RedisResponseCache, redis_client: Redis, spoil: Callable[[bytes], bytes]
) -> None:
    fill(shared, topic("a"), b"abc" * 1000)
    name = b"kn:{cache}:e:topic:a:whole"
    data = redis_client.get(name)
    assert isinstance(data, bytes)
    redis_client.set(name, spoil(data))
    assert held(shared, topic("a")) is None
    assert shared.unreadable == 1


def test_entries_are_compressed_when_it_pays() -> None:
    text = b"photosynthesis turns light into sugar. " * 100
    assert len(pack(CacheEntry(text, "", 0.0))) < len(text) / 5


def test_a_small_bomb_does_not_unpack_to_a_large_entry(
    shared: RedisResponseCache, redis_client: Redis
) -> None:
    redis_client.set("kn:{cache}:e:topic:a:whole", pack(CacheEntry(bytes(20 * 1024**2), "", 0.0, 2**53)))
    assert held(shared, topic("a")) is None


def test_redis_never_holds_more_than_its_room_whoever_asks_for_however_many_topics(
    redis_client: Redis, clock: ManualClock
) -> None:
    cache = RedisResponseCache(redis_client, RedisBreaker(clock), max_bytes=100_000)
    for index in range(300):
        fill(cache, topic(str(index)), random.Random(index).randbytes(1000 + index), seconds=60 + index)
        assert cache.size().bytes <= 100_000
    names = redis_client.keys("kn:{cache}:e:*")
    assert 40 < len(names) < 70
    assert cache.size().entries == len(names)
    assert cache.size().evictions == 300 - len(names)
    assert held(cache, topic("299")) is not None
    assert held(cache, topic("0")) is None
    fill(cache, topic("large"), random.Random(1).randbytes(200_000))
    assert held(cache, topic("large")) is None
    gone = cache.size().evictions
    take(cache, "*")
    assert cache.size() == LayerSize(0, 0, gone)


def test_an_entry_at_its_end_is_not_counted_any_more(redis_client: Redis, clock: ManualClock) -> None:
    cache = RedisResponseCache(redis_client, RedisBreaker(clock))
    fill(cache, topic("a"), seconds=0.02)
    fill(cache, topic("b"), seconds=60)
    redis_client.blpop("nothing", 0.05)
    assert cache.size().entries == 1
    fill(cache, topic("b"), seconds=60)
    size = cache.size().bytes
    fill(cache, topic("b"), seconds=60)
    assert cache.size().bytes == size
    assert redis_client.hlen("kn:{cache}:sizes") == 2


def test_a_redis_that_lost_its_generations_serves_nothing_older(
    shared: RedisResponseCache, redis_client: Redis
) -> None:
    fill(shared, topic("a"))
    redis_client.delete("kn:{cache}:gens")
    assert held(shared, topic("a")) is None


def test_many_taken_tags_stay_bounded_and_forgetting_is_on_the_safe_side(
    shared: RedisResponseCache, redis_client: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowalledge.caching.redis.MAX_TAGS", 100)
    fill(shared, topic("first"))
    generation = shared.get(topic("first")).generation
    take(shared, "topic:second")
    for index in range(500):
        take(shared, f"topic:{index}")
    assert redis_client.zcard("kn:{cache}:gens") <= 101
    shared.put(topic("second"), CacheEntry(b"old", "", 0.0, generation), 60)
    assert held(shared, topic("second")) is None


def test_a_redis_that_is_gone_is_an_empty_layer_and_costs_one_timeout(clock: ManualClock) -> None:
    class Gone:
        calls = 0

        def execute_command(self, *args: Any) -> Any:
            self.calls += 1
            raise ConnectionRefusedError

    gone = Gone()
    cache = RedisResponseCache(gone, RedisBreaker(clock))
    for _ in range(10):
        assert cache.get(topic("a")).generation == 0
        cache.put(topic("a"), CacheEntry(b"", "", 0.0), 60)
    assert gone.calls == 1
    assert not cache.up
    with pytest.raises(Unavailable):
        take(cache, "*")
    clock.sleep(1.1)
    cache.get(topic("a"))
    assert gone.calls == 2


# -- two workers over one Redis ------------------------------------------------------------------------


class Worker:
    def __init__(self, client: Redis, clock: ManualClock) -> None:
        self.memory = MemoryResponseCache(1024**2, clock)
        self.shared = RedisResponseCache(client, RedisBreaker(clock))
        self.telemetry = RecordingTelemetry()
        self.layers = Layers(
            (Layer("memory", self.memory), Layer("redis", self.shared)),
            Lifetimes(600, 3600, 3600),
            clock,
            self.telemetry,
            self.listen,
        )
        self.listen()

    def listen(self) -> bool:
        return self.shared.listen(self.memory)

    def ask(self, key: Key) -> bytes | None:
        entry = self.layers.lookup(key).entry
        return entry.body if entry else None

    def make(self, key: Key, body: bytes, clock: ManualClock) -> None:
        self.layers.store(key, CacheEntry(body, "", clock.now(), self.layers.lookup(key).generation))


def test_what_one_worker_takes_back_is_gone_from_the_memory_of_the_others(
    redis_client: Redis, clock: ManualClock
) -> None:
    one, two = Worker(redis_client, clock), Worker(redis_client, clock)
    one.make(topic("a"), b"old", clock)
    one.make(topic("b"), b"b", clock)
    assert (two.ask(topic("a")), two.ask(topic("b"))) == (b"old", b"b")
    assert one.layers.invalidate("topic:a", "test") == 1
    assert one.layers.get_local(topic("a")) is None
    two.listen()
    assert two.layers.get_local(topic("a")) is None
    assert two.layers.get_local(topic("b")) is not None


def test_a_worker_that_missed_too_much_forgets_everything(
    redis_client: Redis, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("knowalledge.caching.redis.LOG_LENGTH", 1)
    one, two = Worker(redis_client, clock), Worker(redis_client, clock)
    one.make(topic("a"), b"old", clock)
    assert two.ask(topic("a")) == b"old"
    one.layers.invalidate("topic:a", "test")
    for index in range(400):
        one.layers.invalidate(f"topic:{index}", "test")
    assert redis_client.xlen("kn:{cache}:log") < 400
    two.listen()
    assert two.layers.get_local(topic("a")) is None


def test_a_worker_forgets_when_redis_lost_its_data(redis_client: Redis, clock: ManualClock) -> None:
    one = Worker(redis_client, clock)
    one.make(topic("a"), b"old", clock)
    redis_client.flushdb()
    one.listen()
    assert one.layers.get_local(topic("a")) is None


def test_a_worker_keeps_its_memory_when_nothing_happened(redis_client: Redis, clock: ManualClock) -> None:
    one = Worker(redis_client, clock)
    one.make(topic("a"), b"old", clock)
    one.listen()
    one.listen()
    assert one.layers.get_local(topic("a")) is not None


def test_a_hit_in_redis_is_promoted_to_memory_and_each_look_is_told(
    redis_client: Redis, clock: ManualClock
) -> None:
    one = Worker(redis_client, clock)
    one.make(topic("a"), b"x", clock)
    one.layers.invalidate("topic:b", "test")
    two = Worker(redis_client, clock)  # knows nothing of what happened before
    two.ask(topic("a"))
    two.ask(topic("a"))
    assert two.telemetry.lookups == [("memory", "miss"), ("redis", "hit"), ("memory", "hit")]


def test_memory_looks_at_redis_again_after_its_own_time(redis_client: Redis, clock: ManualClock) -> None:
    one, two = Worker(redis_client, clock), Worker(redis_client, clock)
    one.make(topic("a"), b"old", clock)
    two.ask(topic("a"))
    one.make(topic("a"), b"new", clock)
    assert two.ask(topic("a")) == b"old"
    clock.sleep(601)
    assert two.ask(topic("a")) == b"new"


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("ask"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.just("begin"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(st.just("end"), st.integers(0, 1), st.integers(0, 3)),
        st.tuples(
            st.just("take"),
            st.integers(0, 1),
            st.sampled_from(["*", "topic:*", "topic:0", "topic:1:whole", "topic:[12]*"]),
        ),
        st.tuples(st.just("sleep"), st.just(0), st.sampled_from([100, 599, 3601])),
    ),
    max_size=40,
)


@given(steps=STEPS)
@examples(60)
def test_no_worker_ever_serves_what_was_taken_back_before_it_was_asked_for(
    redis_client: Redis, steps: list[tuple[str, int, Any]]
) -> None:
    """Each answer is stamped with the count of invalidations that hit it when it began to be made."""
    redis_client.flushdb()
    clock = ManualClock()
    workers = [Worker(redis_client, clock), Worker(redis_client, clock)]
    taken = [0] * 4  # by key
    flying: dict[tuple[int, int], tuple[int, int]] = {}
    for action, who, what in steps:
        worker = workers[who]
        if action == "ask":
            worker.listen()
            body = worker.ask(topic(str(what)))
            assert body is None or int(body) >= taken[what]
        elif action == "begin":
            flying[who, what] = (worker.layers.lookup(topic(str(what))).generation, taken[what])
        elif action == "end" and (who, what) in flying:
            generation, stamp = flying.pop((who, what))
            worker.layers.store(
                topic(str(what)), CacheEntry(str(stamp).encode(), "", clock.now(), generation)
            )
        elif action == "take":
            worker.layers.invalidate(what, "test")
            for index in range(4):
                if parse_pattern(what).matches(topic(str(index))):
                    taken[index] += 1
        else:
            clock.sleep(what)
