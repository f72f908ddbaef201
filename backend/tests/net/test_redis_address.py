"""Addresses of Redis: one parser for every kind, which honours what is written or refuses it."""

from pathlib import Path

import pytest
from redis.exceptions import RedisClusterException, RedisError

from bench.ports import free_port
from knowalledge.net.redis.address import RedisAddress, RedisKind, parse_redis_address
from knowalledge.net.redis.client import make_client
from knowalledge.net.redis.errors import REDIS_ERRORS
from tests.support.redis_kinds import as_cluster, wait_ready

SERVER, UNIX, SENTINEL, CLUSTER = RedisKind.SERVER, RedisKind.UNIX, RedisKind.SENTINEL, RedisKind.CLUSTER
TWO = (("a", 1), ("b", 26379))
READ = {
    "redis://": RedisAddress(SERVER, (("localhost", 6379),)),
    " redis://h ": RedisAddress(SERVER, (("h", 6379),)),
    "redis://h:7/3": RedisAddress(SERVER, (("h", 7),), db=3),
    "redis://h?db=3": RedisAddress(SERVER, (("h", 6379),), db=3),
    "rediss://u:p%40%2F@h:7": RedisAddress(SERVER, (("h", 7),), tls=True, username="u", password="p@/"),
    "redis://:p@h?ssl=true": RedisAddress(SERVER, (("h", 6379),), tls=True, password="p"),
    "rediss://h?ssl=True": RedisAddress(SERVER, (("h", 6379),), tls=True),
    "redis://h?ssl=false": RedisAddress(SERVER, (("h", 6379),)),
    "redis://h?username=u&password=p%26": RedisAddress(SERVER, (("h", 6379),), username="u", password="p&"),
    "redis://[::1]:7/1": RedisAddress(SERVER, (("::1", 7),), db=1),
    "unix:///run/redis.sock": RedisAddress(UNIX, path="/run/redis.sock"),
    "unix://:p@/run/a%20b.sock?db=2": RedisAddress(UNIX, password="p", path="/run/a b.sock", db=2),
    "redis+sentinel://a:1,b/main": RedisAddress(SENTINEL, TWO, master="main"),
    "redis+sentinel://u:p@a:1, b/main/2?sentinel_username=s&sentinel_password=q": RedisAddress(
        SENTINEL,
        TWO,
        username="u",
        password="p",
        sentinel_username="s",
        sentinel_password="q",
        master="main",
        db=2,
    ),
    "rediss+sentinel://[::1],b/main": RedisAddress(
        SENTINEL, (("::1", 26379), ("b", 26379)), tls=True, master="main"
    ),
    "redis+cluster://a,[::1]:7": RedisAddress(CLUSTER, (("a", 6379), ("::1", 7))),
    "rediss+cluster://:p@a/0": RedisAddress(CLUSTER, (("a", 6379),), tls=True, password="p"),
    "redis+cluster://a?ssl=true": RedisAddress(CLUSTER, (("a", 6379),), tls=True),
}
REFUSED = (
    *(
        "http://h",
        "redis:h",
        "rediss+unix:///x",
        "redis://h:port",
        "redis://h:0",
        "redis://h:65536",
        "redis://[::1",
    ),
    *(
        "redis://::1",
        "redis://a b",
        "redis://a,b",
        "redis://h/x",
        "redis://h/1/2",
        "redis://h/1?db=2",
        "redis://h/-1",
    ),
    *("redis://h?ssl_cert_reqs=none", "redis://h?SSL=true", "redis://h?ssl=maybe", "rediss://h?ssl=false"),
    *("redis://h?ssl=true&ssl=false", "redis://h?tls=true", "redis://h?sentinel_password=p", "redis://h#x"),
    *("unix://h", "unix://h/run", "unix:///x?ssl=true", "redis+sentinel://a", "redis+sentinel://a/main/x"),
    *(
        "redis+sentinel://a/main/0/1",
        "redis+cluster://a/1",
        "redis+cluster://a?db=1",
        "redis+cluster://a,,b:x",
    ),
    *("redis://:p/w@h", "redis://:p?w@h", "redis://:p#w@h"),
)


@pytest.mark.parametrize("text", READ)
def test_what_is_written_is_honoured(text: str) -> None:
    assert parse_redis_address(text) == READ[text]


@pytest.mark.parametrize("text", REFUSED)
def test_what_cannot_be_honoured_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ValueError, match="write ") as refused:
        parse_redis_address(text)
    assert text not in str(refused.value)
    assert refused.value.__cause__ is None


@pytest.mark.parametrize("text", READ)
def test_a_client_of_any_kind_is_made_without_its_server(text: str) -> None:
    make_client(text, 0.1, 2).close()


@pytest.mark.parametrize("scheme", ["redis", "rediss", "redis+sentinel", "rediss+sentinel", "redis+cluster"])
def test_a_server_that_is_away_is_an_error_of_redis_at_the_command(scheme: str) -> None:
    path = "/main" if "sentinel" in scheme else ""
    client = make_client(f"{scheme}://127.0.0.1:{free_port()}{path}", 0.2, 2)
    with pytest.raises(REDIS_ERRORS) as away:
        client.get("k")
    assert isinstance(away.value, RedisError | RedisClusterException | OSError)


def test_a_cluster_that_was_away_at_start_is_used_when_it_is_there(tmp_path: Path) -> None:
    with as_cluster(tmp_path) as url:
        port = url.rpartition(":")[2]
        client = make_client(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{port}", 1.0, 4)
        wait_ready(client)
        assert client.get("{well}") == b"1"
