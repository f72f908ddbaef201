"""What the parts of a suite share: the one over every provider adapter, with its dialects in provider_dialects.py, and
the one over both quota stores, with its steps in quota_stores.py.
"""

from collections.abc import Callable, Iterator

import pytest
from redis import Redis

from knowalledge.core import errors as e
from knowalledge.gateway.domain.prompt import Message, Prompt, Text
from knowalledge.gateway.ports import Provider
from knowalledge.net.redis.client import any_node, make_client
from knowalledge.quota.memory import MemoryQuotaStore
from tests.contract.provider_dialects import DIALECTS, Dialect
from tests.contract.quota_stores import RULES, Make, redis_store
from tests.support.chunks import each
from tests.support.doubles import ManualClock
from tests.support.loopback import Exchange, Handler, Loopback, replies, sse
from tests.support.redis_kinds import as_cluster, behind_sentinel, wait_ready

PROMPT = Prompt((Message("user", (Text("the secret prompt"),)),))
S = 20.0  # a timeout that no test reaches
SHORT = 0.05  # a timeout that tests reach
SOON = 0.5  # a timeout that tests reach, but after the first event of a stream


@pytest.fixture(params=DIALECTS, ids=lambda it: it.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    found: Dialect = request.param
    return found


@pytest.fixture
def server() -> Iterator[Loopback]:
    server = Loopback(replies(b"{}"))
    yield server
    server.stop()


@pytest.fixture
def provider(dialect: Dialect, server: Loopback) -> Iterator[Provider]:
    provider = dialect.provider(server.url)
    yield provider
    provider.close()


def both(provider: Provider) -> tuple[Callable[[float], object], ...]:
    """A unary and a streamed call."""
    return (
        lambda timeout: provider.complete(PROMPT, timeout),
        lambda timeout: list(each(provider, PROMPT, timeout)),
    )


def fails(provider: Provider, kind: type[e.KnowalledgeError], timeout: float = S) -> e.KnowalledgeError:
    """Both a unary and a streamed call raise exactly this error; returns the last one.

    Only the reason of a rejected request is the provider's own text.
    """
    for call in both(provider):
        with pytest.raises(kind) as caught:
            call(timeout)
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value) or kind is e.ProviderRejected
    return caught.value


def event_then_hang(dialect: Dialect) -> Handler:
    """Starts a stream, sends one event, and nothing more."""

    def handle(exchange: Exchange) -> None:
        exchange.start_stream()
        exchange.send_chunk(sse(dialect.event("he")))
        exchange.hang()

    return handle


@pytest.fixture(scope="package")
def sentinel_client(tmp_path_factory: pytest.TempPathFactory, redis_port: int) -> Iterator[Redis]:
    with (
        behind_sentinel(tmp_path_factory.mktemp("sentinel"), redis_port) as url,
        make_client(url, 5.0, 10) as redis,
    ):
        wait_ready(redis)
        yield redis


@pytest.fixture(scope="package")
def cluster_client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with as_cluster(tmp_path_factory.mktemp("cluster")) as url, make_client(url, 5.0, 10) as redis:
        wait_ready(redis)
        yield redis


def emptied(request: pytest.FixtureRequest, kind: str) -> Redis:
    redis: Redis = request.getfixturevalue(f"{kind}_client")
    any_node(redis).flushall()
    return redis


@pytest.fixture(params=["redis", "sentinel", "cluster"])
def empty(request: pytest.FixtureRequest) -> Redis:
    """Redis wherever it may be, with nothing in it."""
    return emptied(request, request.param)


@pytest.fixture(params=["memory", "redis", "sentinel", "cluster"])
def make(request: pytest.FixtureRequest, clock: ManualClock) -> Make:
    """Both adapters, and the one over Redis wherever Redis may be."""
    if request.param == "memory":
        return lambda *windows: MemoryQuotaStore({"t": windows}, RULES, clock, auto_dispatch=False)
    redis = emptied(request, request.param)
    return lambda *windows: redis_store(redis, clock, *windows)
