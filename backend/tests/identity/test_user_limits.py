"""How often one user may ask: a limit for each class of routes, on top of the quota."""

import pytest
from flask.testing import FlaskClient
from redis import Redis

from knowalledge.core.access import Access
from knowalledge.core.errors import ClientLimited
from knowalledge.identity.domain.rates import OWN, rates_of
from knowalledge.identity.redis import RedisCounts
from knowalledge.identity.service.limiter import Limiter
from knowalledge.net.redis.breaker import RedisBreaker
from tests.identity.conftest import House, bearer
from tests.support.doubles import CuttableRedis, ManualClock
from tests.support.web_app import ScriptedProvider

LIMITS = {
    "limits.generate": "2/minute;3/hour",
    "limits.read": "4/minute",
    "limits.admin": "1/minute",
    "limits.anonymous": "1/minute",
}


@pytest.fixture(autouse=True)
def within_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    # A sliding window is made of two fixed ones: at 10 s into one, no test crosses a boundary.
    monkeypatch.setattr("time.time", lambda: 1_790_000_010.0)


def ask(client: FlaskClient, key: str) -> int:
    return client.post("/api/v1/generate", json={"prompt": "hi"}, headers=bearer(key)).status_code


def test_each_class_of_routes_has_its_own_limit(house: House, provider: ScriptedProvider) -> None:
    client, key = house.gateway(values=LIMITS), house.key("operator")
    assert [ask(client, key) for _ in range(3)] == [200, 200, 429]
    assert [client.get("/v1/models", headers=bearer(key)).status_code for _ in range(5)] == [200] * 4 + [429]
    admin = [client.get("/api/v1/admin/keys", headers=bearer(key)).status_code for _ in range(2)]
    assert admin == [200, 429]
    assert len(provider.prompts) <= 2


def test_a_user_is_one_client_with_all_its_keys_and_others_are_others(house: House) -> None:
    client = house.gateway(values=LIMITS)
    first, second = house.key(user="ada"), house.key(user="ada")
    others = house.key(user="bob"), house.key(user="ada", tenant="other")
    assert [ask(client, it) for it in (first, second, first)] == [200, 200, 429]
    assert [ask(client, it) for it in others] == [200, 200]


def test_a_refusal_says_when_to_come_back_and_which_limit_it_was(house: House) -> None:
    client, key = house.gateway(values=LIMITS), house.key()
    answer = client.post(
        "/v1/chat/completions", json={"messages": [{"role": "user", "content": "hi"}]}, headers=bearer(key)
    )
    assert answer.status_code == 200
    assert '"client-minute";q=2;w=60, "client-hour";q=3;w=3600' in ", ".join(
        answer.headers.getlist("RateLimit-Policy")
    )
    ask(client, key)
    refused = client.post("/v1/chat/completions", json={}, headers=bearer(key))
    assert refused.status_code == 429
    assert refused.get_json()["error"]["code"] == "client_limited"
    assert refused.headers["RateLimit-Policy"] == '"client-minute";q=2;w=60'
    assert refused.headers.getlist("RateLimit-Policy") == [refused.headers["RateLimit-Policy"]]
    assert refused.headers["RateLimit"].startswith('"client-minute";r=0;t=')
    assert 1 <= int(refused.headers["Retry-After"]) <= 60


def test_who_has_no_key_is_limited_by_address_and_health_never(house: House) -> None:
    client = house.gateway(values={**LIMITS, "auth.public_topics": True})
    statuses = [client.get("/api/v1/topics/light").status_code for _ in range(2)]
    assert statuses[0] != 429
    assert statuses[1] == 429
    for path in ("/api/health", "/api/ready", "/metrics", "/api/openapi.json") * 3:
        assert client.get(path).status_code == 200


def test_a_refused_caller_is_not_counted(house: House) -> None:
    client, reader, key = house.gateway(values=LIMITS), house.key("readonly"), house.key()
    assert [ask(client, reader) for _ in range(5)] == [403] * 5
    assert [ask(client, "unknown") for _ in range(5)] == [401] * 5
    assert [ask(client, key) for _ in range(2)] == [200, 200]


def test_replicas_count_a_user_together(house: House, redis_url: str, redis_client: Redis) -> None:
    replicas, key = [house.gateway(values={**LIMITS, "redis_url": redis_url}) for _ in range(2)], house.key()
    assert [ask(it, key) for it in (*replicas, *replicas)] == [200, 200, 429, 429]


# -- the counts --------------------------------------------------------------------------------------------------------


class Replicas:
    """Some replicas over one Redis, or each alone, under one clock."""

    def __init__(self, number: int, text: str, redis: Redis | None, clock: ManualClock) -> None:
        self.clock = clock
        self.breaker = RedisBreaker(clock)
        self.redis = CuttableRedis(redis) if redis is not None else None
        shared = RedisCounts(self.redis, self.breaker) if self.redis is not None else None
        rates = {Access.READ: rates_of(text)}
        self.limiters = [Limiter(rates, shared, clock.now) for _ in range(number)]

    def ask(self, number: int = 0, client: str = "c") -> bool:
        try:
            self.limiters[number].admit(client, Access.READ)
        except ClientLimited:
            return False
        return True


@pytest.mark.parametrize("number", [1, 3, 5])
@pytest.mark.parametrize("text", ["1/minute", "7/minute", "20/minute", "100/hour;30/minute"])
def test_at_once_replicas_admit_the_limit_and_hardly_more(
    redis_client: Redis, clock: ManualClock, number: int, text: str
) -> None:
    replicas = Replicas(number, text, redis_client, clock)
    smallest = min(it.limit for it in rates_of(text))
    admitted = sum(replicas.ask(turn % number) for turn in range(4 * smallest + 20))
    assert smallest <= admitted <= smallest + (number - 1) * int(smallest * OWN)


def test_far_from_the_limit_no_request_makes_a_round_trip(redis_client: Redis, clock: ManualClock) -> None:
    replicas = Replicas(2, "100/minute", redis_client, clock)
    before = redis_client.info("commandstats")
    assert all(replicas.ask(turn % 2) for turn in range(10))
    assert "cmdstat_evalsha" not in redis_client.info("commandstats").keys() - before.keys()
    assert redis_client.keys("kn:limits:*") == []
    for it in replicas.limiters:
        it.tell()
    assert sum(int(it or 0) for it in redis_client.mget(redis_client.keys("kn:limits:*"))) == 10


def test_replicas_learn_what_others_have_counted(redis_client: Redis, clock: ManualClock) -> None:
    first = Replicas(2, "20/minute", redis_client, clock)
    for _ in range(10):
        for turn in range(2):
            first.ask(turn)
    assert not first.ask(0)
    assert not first.ask(1)
    clock.sleep(120)
    assert first.ask(0)


def test_a_window_slides(clock: ManualClock) -> None:
    clock.time = 1_790_000_040.0  # a minute begins
    alone = Replicas(1, "10/minute", None, clock)
    clock.sleep(30)
    assert [alone.ask() for _ in range(11)] == [True] * 10 + [False]
    clock.sleep(30)  # the next minute begins: the ten are within the last 60 s
    assert not alone.ask()
    clock.sleep(31)
    assert alone.ask()


def test_the_time_to_come_back_is_enough_and_not_much_more(clock: ManualClock) -> None:
    clock.time = 1_790_000_040.0
    alone = Replicas(1, "10/minute", None, clock)
    for wait in range(0, 60, 7):
        clock.time = 1_790_000_040.0 + 600 * wait + wait
        while alone.ask():
            pass
        with pytest.raises(ClientLimited) as caught:
            alone.limiters[0].admit("c", Access.READ)
        after = caught.value.retry_after
        assert after is not None
        clock.sleep(after - 1.001)
        early = alone.ask()
        clock.sleep(1.002)
        assert not early or after <= 1
        assert alone.ask()


def test_a_refusal_is_counted_in_no_window(clock: ManualClock) -> None:
    alone = Replicas(1, "2/second;100/hour", None, clock)
    assert [alone.ask() for _ in range(50)].count(True) == 2
    assert [alone.limiters[0].admit("other", Access.READ) is not None] == [True]
    for _ in range(49):
        clock.sleep(2)
        assert [alone.ask() for _ in range(9)].count(True) == 2
    clock.sleep(2)
    assert not alone.ask()


def test_without_redis_each_replica_counts_alone_and_tells_it_later(
    redis_client: Redis, clock: ManualClock
) -> None:
    replicas = Replicas(2, "6/minute", redis_client, clock)
    assert replicas.redis is not None
    assert replicas.ask(0)
    replicas.redis.cut = True
    assert [replicas.ask(0) for _ in range(6)] == [True] * 5 + [False]
    assert replicas.ask(1)
    replicas.redis.cut = False
    clock.sleep(1.5)
    for it in replicas.limiters:
        it.tell()
    assert [replicas.ask(turn) for turn in (0, 1)] == [False, False]
