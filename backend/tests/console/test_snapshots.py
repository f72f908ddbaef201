"""Snapshots for operators' pages: one reading a second for all of them."""

import gevent
import pytest

from knowalledge.console import snapshots as module
from knowalledge.console.snapshots import INTERVAL_S, Snapshots
from knowalledge.core.errors import Unavailable
from tests.support.doubles import ManualClock


class Source:
    """Counts how often it is read; a reading takes its time."""

    def __init__(self) -> None:
        self.reads = 0

    def __call__(self) -> bytes:
        gevent.sleep(0)
        self.reads += 1
        return b'{"reading": %d}' % self.reads


def test_many_pages_share_one_reading_a_second() -> None:
    source, clock = Source(), ManualClock()
    snapshots = Snapshots(source, clock)
    first = gevent.joinall([gevent.spawn(snapshots.newest) for _ in range(200)])
    assert {it.value for it in first} == {b'event: snapshot\ndata: {"reading": 1}\n\n'}
    clock.sleep(INTERVAL_S)
    assert snapshots.newest() == b'event: snapshot\ndata: {"reading": 2}\n\n'
    assert source.reads == 2


def test_a_stream_is_a_snapshot_a_second_and_ends_with_the_process() -> None:
    source, clock = Source(), ManualClock()
    snapshots = Snapshots(source, clock, clock.sleep)
    stream = snapshots.stream()
    assert [next(stream), next(stream)] == [
        b'event: snapshot\ndata: {"reading": 1}\n\n',
        b'event: snapshot\ndata: {"reading": 2}\n\n',
    ]
    snapshots.close()
    assert list(stream) == []


def test_pages_beyond_the_bound_are_refused_and_a_closed_page_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_PAGES", 1)
    snapshots = Snapshots(Source(), ManualClock())
    never_begun = snapshots.stream()
    never_begun.close()
    first = snapshots.stream()
    next(first)
    with pytest.raises(Unavailable):
        snapshots.stream()
    first.close()
    snapshots.stream()
