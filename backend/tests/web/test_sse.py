"""A stream's life: pieces as they come, signs of life between them, and an end whichever side ends it."""

import socket
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event as Flag

from knowalledge.domain.errors import ClientGone, ProviderGarbage
from knowalledge.domain.model import Delta, Event, Queued, Started
from knowalledge.web import presence, sse


class Plain:
    """The barest dialect."""

    content_type = sse.CONTENT_TYPE
    heartbeat = b"beat"

    def opens(self, event: Event) -> bool:
        return not isinstance(event, Queued)

    def event(self, event: Event) -> bytes:
        return event.text.encode() if isinstance(event, Delta) else b""

    def failed(self, error: BaseException) -> bytes:
        return type(error).__name__.encode()


class Source:
    """Events that a test releases one by one; remembers how it ended."""

    def __init__(self, *events: Event | Exception | Flag) -> None:
        self._events = events
        self.ended: BaseException | None = None
        self.closed = False
        self.told = 0

    def __iter__(self) -> Iterator[Event]:
        try:
            for event in self._events:
                if isinstance(event, Flag):
                    event.wait()
                elif isinstance(event, Exception):
                    raise event
                else:
                    self.told += 1
                    yield event
        except BaseException as error:
            self.ended = error
            raise
        finally:
            self.closed = True


STARTED = Started("m", "t")


def begin(source: Source, heartbeat_s: float = 60.0, environ: dict[str, Any] | None = None) -> sse.Stream:
    stream = sse.Stream(iter(source), Plain(), heartbeat_s, environ or {})
    stream.opening()
    return stream


def test_pieces_come_in_order_and_what_a_dialect_does_not_know_is_left_out() -> None:
    source = Source(STARTED, Delta("a"), STARTED, Delta("b"))
    assert b"".join(begin(source)) == b"ab"
    assert source.closed


def test_an_error_is_the_last_piece() -> None:
    stream = begin(Source(STARTED, Delta("a"), ProviderGarbage("x"), Delta("b")))
    assert b"".join(stream) == b"aProviderGarbage"


def test_our_own_fault_is_a_piece_too() -> None:
    assert list(begin(Source(STARTED, ValueError("secret")))) == [b"ValueError"]


def test_each_piece_goes_out_when_it_comes_and_what_came_meanwhile_goes_out_with_it() -> None:
    first, second = Flag(), Flag()
    stream = begin(Source(STARTED, Delta("a"), first, Delta("b"), Delta("c"), second))
    assert next(stream) == b"a"
    first.set()
    gevent.sleep(0.001)
    assert next(stream) == b"bc"
    second.set()
    assert list(stream) == []


def test_a_silent_source_gives_signs_of_life() -> None:
    release = Flag()
    stream = begin(Source(STARTED, release, Delta("a")), heartbeat_s=0.005)
    assert [next(stream), next(stream)] == [b"beat", b"beat"]
    release.set()
    assert list(stream)[-1] == b"a"


def test_a_slow_client_slows_the_source() -> None:
    source = Source(STARTED, *[Delta(str(it)) for it in range(100)])
    stream = begin(source)
    next(stream)
    gevent.sleep(0.01)
    assert source.told <= 2 * (1 + sse.AHEAD)
    assert b"".join(stream).endswith(b"9899")


@pytest.mark.parametrize("waits", [True, False])
def test_closing_the_stream_closes_the_source_wherever_it_waits(waits: bool) -> None:
    source = Source(STARTED, Delta("a"), *([Flag()] if waits else []), *[Delta("b")] * 50)
    stream = begin(source)
    assert next(stream).startswith(b"a")
    gevent.sleep(0.001)
    stream.close()
    assert source.closed
    assert isinstance(source.ended, ClientGone if waits else GeneratorExit)


def test_a_source_whose_first_piece_nobody_took_is_closed() -> None:
    source = Source(Delta("a"), *[Delta("b")] * 50)
    stream = begin(source)
    assert next(stream).startswith(b"a")
    stream.close()
    assert source.closed


def test_the_answer_begins_with_what_opens_it() -> None:
    source = Source(Queued(2, 1.0), Queued(1, 0.5), STARTED, Delta("a"))
    stream = sse.Stream(iter(source), Plain(), 60.0, {})
    assert stream.opening() is STARTED
    assert list(stream) == [b"a"]


def test_until_it_begins_a_failure_is_raised_and_the_source_is_closed() -> None:
    source = Source(Queued(2, 1.0), ProviderGarbage("x"))
    stream = sse.Stream(iter(source), Plain(), 60.0, {})
    with pytest.raises(ProviderGarbage):
        stream.opening()
    assert source.closed


def test_a_source_that_is_silent_for_long_begins_with_a_sign_of_life() -> None:
    release = Flag()
    source = Source(Queued(2, 1.0), release, STARTED, Delta("a"))
    stream = sse.Stream(iter(source), Plain(), 0.005, {})
    assert stream.opening() is None
    assert next(stream) == b"beat"
    release.set()
    assert list(stream)[-1] == b"a"


def test_a_stream_that_nobody_reads_is_closed_all_the_same() -> None:
    source = Source(STARTED, *[Delta("a")] * 50)
    begin(source).close()
    assert source.closed


def test_a_source_without_events_is_an_empty_answer() -> None:
    stream = sse.Stream(iter(Source()), Plain(), 60.0, {})
    assert stream.opening() is None
    assert list(stream) == []


def test_a_client_that_hangs_up_before_the_answer_begins_ends_the_source() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        source = Source(Queued(1, 1.0), Flag())
        stream = sse.Stream(iter(source), Plain(), 60.0, {"gunicorn.sock": ours})
        theirs.close()
        with pytest.raises(ClientGone):
            stream.opening()
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
            with presence.while_present({"gunicorn.sock": ours}):
                Flag().wait()
        except ClientGone as error:
            ended.append(error.message)

    with ours:
        server = gevent.spawn(serve)
        gevent.sleep(0.005)
        assert not ended
        theirs.close()
        server.join(5)
    assert ended == ["the client left"]


def test_a_client_that_sends_its_next_request_early_is_not_taken_for_gone() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.send(b"GET")
        with presence.while_present({"gunicorn.sock": ours}):
            gevent.sleep(0.01)


def test_a_client_that_leaves_after_the_answer_disturbs_nobody() -> None:
    ours, theirs = socket.socketpair()
    with ours:
        with presence.while_present({"gunicorn.sock": ours}):
            pass
        theirs.close()
        gevent.sleep(0.01)
