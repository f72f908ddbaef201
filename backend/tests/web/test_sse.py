"""A stream's life: pieces as they come, signs of life between them, and an end whichever side ends it."""

import socket
from collections.abc import Generator
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from knowalledge.core.errors import ClientGone, ProviderGarbage
from knowalledge.gateway.api.streaming import CONTENT_TYPE, StreamedBody
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.net import presence
from knowalledge.net.presence import HUB_WRITE


class Plain:
    """The barest dialect."""

    content_type = CONTENT_TYPE
    heartbeat = b"beat"

    def opens(self, event: Event) -> bool:
        return not isinstance(event, QueuePosition)

    def render(self, event: Event) -> bytes:
        return event.text.encode() if isinstance(event, Delta) else b""

    def render_error(self, error: BaseException) -> bytes:
        return type(error).__name__.encode()


class Source:
    """Events that a test releases; those up to a flag come together. Remembers how it ended."""

    def __init__(self, *events: Event | Exception | Flag) -> None:
        self._events = events
        self.ended: BaseException | None = None
        self.closed = False
        self.told = 0

    def __iter__(self) -> Generator[list[Event], None, None]:
        came: list[Event] = []
        try:
            for event in self._events:
                if isinstance(event, Delta | Done | QueuePosition | Started):
                    self.told += 1
                    came.append(event)
                    continue
                if came:
                    yield came
                    came = []
                if isinstance(event, Exception):
                    raise event
                event.wait()
            if came:
                yield came
        except BaseException as error:
            self.ended = error
            raise
        finally:
            self.closed = True


STARTED = Started("m", "t")


def now() -> Flag:
    """What was before it does not come together with what is after it."""
    flag = Flag()
    flag.set()
    return flag


class Server:
    """What a server lends a stream, so that it can speak while its response waits."""

    def __init__(self, **more: Any) -> None:
        self.said: list[bytes] = []
        self.environ = {HUB_WRITE: self.said.append, **more}


def begin(source: Source, heartbeat_s: float = 60.0, environ: dict[str, Any] | None = None) -> StreamedBody:
    stream = StreamedBody(iter(source), Plain(), heartbeat_s, environ or {})
    stream.open()
    return stream


@pytest.fixture(params=["by itself", "with a greenlet beside it"])
def environ(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Of a server that lets a silent stream speak, and of one that does not."""
    return Server().environ if request.param == "by itself" else {}


def test_pieces_come_in_order_and_what_a_dialect_does_not_know_is_left_out(environ: dict[str, Any]) -> None:
    source = Source(STARTED, Delta("a"), now(), STARTED, now(), Delta("b"))
    assert list(begin(source, environ=environ)) == [b"a", b"b"]
    assert source.closed


def test_an_error_is_the_last_piece(environ: dict[str, Any]) -> None:
    stream = begin(Source(STARTED, Delta("a"), ProviderGarbage("x"), Delta("b")), environ=environ)
    assert b"".join(stream) == b"aProviderGarbage"


def test_our_own_fault_is_a_piece_too(environ: dict[str, Any]) -> None:
    assert list(begin(Source(STARTED, ValueError("secret")), environ=environ)) == [b"ValueError"]


def test_each_piece_goes_out_when_it_comes_and_what_came_with_it_goes_out_with_it(
    environ: dict[str, Any],
) -> None:
    first, second = Flag(), Flag()
    source = Source(STARTED, Delta("a"), first, Delta("b"), Delta("c"), second)
    stream = begin(source, environ=environ)
    assert next(stream) == b"a"
    first.set()
    assert next(stream) == b"bc"
    second.set()
    assert list(stream) == []


def test_a_silent_source_gives_signs_of_life_while_the_response_waits_in_it() -> None:
    release, server = Flag(), Server()
    stream = begin(Source(STARTED, Delta("a"), release, Delta("b")), 0.005, server.environ)
    assert next(stream) == b"a"
    assert not server.said
    rest = gevent.spawn(list, stream)
    while len(server.said) < 3:
        gevent.sleep(0.001)
    release.set()
    assert rest.get(timeout=5) == [b"b"]
    stream.close()
    said = len(server.said)
    gevent.sleep(0.02)
    assert server.said == [b"beat"] * said


def test_a_stream_whose_client_is_slow_says_nothing_more() -> None:
    server = Server()
    stream = begin(Source(STARTED, Delta("a"), now(), Delta("b"), Flag()), 0.005, server.environ)
    assert [next(stream), next(stream)] == [b"a", b"b"]
    gevent.sleep(0.02)  # the response is busy with its client
    assert not server.said
    stream.close()


def test_under_a_server_that_lets_nobody_else_write_signs_of_life_are_pieces() -> None:
    release = Flag()
    stream = begin(Source(STARTED, Delta("a"), release, Delta("b")), heartbeat_s=0.005)
    assert [next(stream), next(stream), next(stream)] == [b"a", b"beat", b"beat"]
    release.set()
    assert list(stream)[-1] == b"b"


def test_a_stream_that_has_not_said_anything_begins_with_its_sign_of_life() -> None:
    release, server = Flag(), Server()
    stream = begin(Source(STARTED, release, Delta("a")), 0.005, server.environ)
    assert [next(stream), next(stream)] == [b"beat", b"beat"]  # without a head nothing can be said beside it
    release.set()
    assert b"".join(stream).endswith(b"a")


def test_a_slow_client_slows_the_source(environ: dict[str, Any]) -> None:
    source = Source(STARTED, *[it for index in range(100) for it in (Delta(str(index)), now())])
    stream = begin(source, environ=environ)
    next(stream)
    gevent.sleep(0.01)
    assert source.told <= 3
    assert b"".join(stream).endswith(b"9899")


@pytest.mark.parametrize("blow", ["close", "kill", "hang up"])
def test_the_source_ends_wherever_it_waits(blow: str, environ: dict[str, Any]) -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        source = Source(STARTED, Delta("a"), Flag(), Delta("b"))
        stream = begin(source, environ={**environ, "gunicorn.sock": ours})
        assert next(stream) == b"a"
        if blow == "close":
            stream.close()
        else:
            reader = gevent.spawn(list, stream)
            gevent.sleep(0.001)
            if blow == "kill":
                reader.kill()
            else:
                theirs.close()
                assert reader.get(timeout=5) == []
            stream.close()
    assert source.closed
    assert isinstance(source.ended, ClientGone | GeneratorExit | gevent.GreenletExit)
    if blow == "hang up":
        assert isinstance(source.ended, ClientGone)


def test_a_source_that_takes_the_blow_and_goes_on_ends_all_the_same(environ: dict[str, Any]) -> None:
    def stubborn() -> Generator[list[Event], None, None]:
        yield [STARTED, Delta("a")]
        try:
            Flag().wait()
        except ClientGone:
            pass
        while True:
            yield [Delta("b")]

    ours, theirs = socket.socketpair()
    with ours, theirs:
        stream = StreamedBody(stubborn(), Plain(), 60.0, {**environ, "gunicorn.sock": ours})
        stream.open()
        assert next(stream) == b"a"
        reader = gevent.spawn(list, stream)
        gevent.sleep(0.001)
        theirs.close()
        assert reader.get(timeout=5) == []
        stream.close()


def test_a_client_that_hung_up_while_it_was_written_to_is_asked_for_nothing_more() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        source = Source(STARTED, Delta("a"), now(), Delta("b"), Flag())
        stream = begin(source, environ=Server(**{"gunicorn.sock": ours}).environ)
        assert next(stream) == b"a"
        theirs.close()
        gevent.sleep(0.005)
        assert list(stream) == []
        stream.close()
    assert (source.told, source.closed) == (2, True)


def test_a_source_whose_first_piece_nobody_took_is_closed() -> None:
    source = Source(Delta("a"), *[Delta("b")] * 50)
    stream = begin(source)
    assert next(stream).startswith(b"a")
    stream.close()
    assert source.closed


def test_the_answer_begins_with_what_opens_it() -> None:
    source = Source(QueuePosition(2, 1.0), now(), QueuePosition(1, 0.5), STARTED, Delta("a"))
    stream = StreamedBody(iter(source), Plain(), 60.0, {})
    assert stream.open() is STARTED
    assert list(stream) == [b"a"]


def test_until_it_begins_a_failure_is_raised_and_the_source_is_closed() -> None:
    source = Source(QueuePosition(2, 1.0), now(), ProviderGarbage("x"))
    stream = StreamedBody(iter(source), Plain(), 60.0, {})
    with pytest.raises(ProviderGarbage):
        stream.open()
    assert source.closed


def test_a_source_that_is_silent_for_long_begins_with_a_sign_of_life() -> None:
    release = Flag()
    source = Source(QueuePosition(2, 1.0), release, STARTED, Delta("a"))
    stream = StreamedBody(iter(source), Plain(), 0.005, {})
    assert stream.open() is None
    assert next(stream) == b"beat"
    release.set()
    assert list(stream)[-1] == b"a"


def test_a_stream_that_nobody_reads_is_closed_all_the_same() -> None:
    source = Source(STARTED, *[Delta("a")] * 50)
    begin(source).close()
    assert source.closed


def test_a_source_without_events_is_an_empty_answer() -> None:
    stream = StreamedBody(iter(Source()), Plain(), 60.0, {})
    assert stream.open() is None
    assert list(stream) == []


def test_a_client_that_hangs_up_before_the_answer_begins_ends_the_source() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        source = Source(QueuePosition(1, 1.0), Flag())
        stream = StreamedBody(iter(source), Plain(), 60.0, {"gunicorn.sock": ours})
        theirs.close()
        with pytest.raises(ClientGone):
            stream.open()
    assert isinstance(source.ended, ClientGone)


def test_a_client_that_hangs_up_ends_a_silent_stream_at_once() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        source = Source(STARTED, Delta("a"), Flag())
        stream = begin(source, environ={"gunicorn.sock": ours})
        assert next(stream) == b"a"
        theirs.close()
        assert list(stream) == []
    assert isinstance(source.ended, ClientGone)


def test_a_client_that_hangs_up_is_noticed_while_nothing_is_written() -> None:
    ours, theirs = socket.socketpair()
    ended: list[str] = []

    def serve() -> None:
        try:
            with presence.cancel_on_disconnect({"gunicorn.sock": ours}):
                Flag().wait()
        except ClientGone as error:
            ended.append(error.message)

    with ours:
        server = gevent.spawn(serve)
        gevent.sleep(0.005)
        assert not ended
        theirs.close()
        server.join(5)
    assert ended == ["the client disconnected"]


def test_a_client_that_sends_its_next_request_early_is_not_taken_for_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"GET")
        with presence.cancel_on_disconnect({"gunicorn.sock": ours}):
            gevent.sleep(0.01)


def test_a_client_that_leaves_after_the_answer_disturbs_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with presence.cancel_on_disconnect({"gunicorn.sock": ours}):
            pass
        theirs.close()
        gevent.sleep(0.01)
