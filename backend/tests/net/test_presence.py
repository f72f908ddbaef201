"""A client that leaves is noticed, whatever it sent before."""

from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from gevent.event import Event
from gevent.socket import SHUT_WR, socket, socketpair

from knowalledge.core.errors import ClientGone
from knowalledge.net import presence

S = 20.0


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[socket, socket]]:
    monkeypatch.setattr(presence, "LOOK_EVERY_S", 0.02)
    ours, theirs = socketpair()
    yield ours, theirs
    ours.close()
    theirs.close()


@pytest.mark.parametrize("late", [b"", b"x", b"GET / HTTP/1.1\r\n"])
@pytest.mark.parametrize("half", [False, True])
def test_a_client_that_leaves_is_noticed_once_even_after_late_bytes(
    ends: tuple[socket, socket], late: bytes, half: bool
) -> None:
    ours, theirs = ends
    left: list[bool] = []
    gone = Event()

    def callback() -> None:
        left.append(True)
        gone.set()

    end = presence.on_disconnect({"gunicorn.sock": ours}, callback)
    theirs.sendall(late)
    gevent.sleep(0.1)
    assert left == []
    if half:
        theirs.shutdown(SHUT_WR)
    else:
        theirs.close()
    assert gone.wait(S)
    gevent.sleep(0.1)
    assert left == [True]
    end()


def test_a_watch_that_has_ended_notices_nothing(ends: tuple[socket, socket]) -> None:
    ours, theirs = ends
    left: list[Any] = []
    end = presence.on_disconnect({"gunicorn.sock": ours}, lambda: left.append(True))
    theirs.sendall(b"x")
    gevent.sleep(0.05)
    end()
    theirs.close()
    gevent.sleep(0.1)
    assert left == []


def test_who_waits_for_a_client_that_leaves_after_a_late_byte_is_interrupted(
    ends: tuple[socket, socket],
) -> None:
    ours, theirs = ends
    theirs.sendall(b"x")
    gevent.spawn_later(0.05, theirs.close)
    with pytest.raises(ClientGone), presence.cancel_on_disconnect({"gunicorn.sock": ours}):
        gevent.sleep(S)
