"""What the parts of the suite over every provider adapter share; its dialects are in provider_dialects.py."""

from collections.abc import Callable, Iterator

import pytest

from knowalledge.domain import errors as e
from knowalledge.domain.model import Message, Prompt, Text
from knowalledge.domain.ports import Provider
from tests.adapters.loopback import Behaviour, Loopback, Talk, replies, sse
from tests.chunks import each
from tests.contract.provider_dialects import DIALECTS, Dialect

PROMPT = Prompt((Message("user", (Text("the secret prompt"),)),))
S = 20.0  # a deadline that no test is meant to reach
SHORT = 0.05  # one that is meant to be reached
SOON = 0.5  # one that is meant to be reached, but not before the first event of a stream


@pytest.fixture(params=DIALECTS, ids=lambda it: it.name)
def dialect(request: pytest.FixtureRequest) -> Dialect:
    return request.param


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
    """Both ways of asking end in this very error; the last one is returned. No secret is in its message."""
    for ask in both(provider):
        with pytest.raises(kind) as caught:
            ask(timeout)
        assert type(caught.value) is kind
        assert "secret" not in str(caught.value)
    return caught.value


def says_and_hangs(dialect: Dialect) -> Behaviour:
    """Begins a stream with one event, and sends nothing more."""

    def behave(talk: Talk) -> None:
        talk.begin()
        talk.piece(sse(dialect.event("he")))
        talk.hang()

    return behave
