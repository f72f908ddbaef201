"""The events of a stream as bytes: replicas of two versions read each other's during a rolling update."""

import msgspec
import pytest

from knowalledge.gateway.domain.answer import Answer, Completion, Finish, Usage
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started

ANSWER = Answer("r", "m", "t", Completion((), Finish.STOP), Usage())


@pytest.mark.parametrize(
    ("event", "tag"),
    [
        (QueuePosition(1, 2.0), "Queued"),
        (Started("m", "t"), "Started"),
        (Delta("x"), "Delta"),
        (Done(ANSWER), "Done"),
    ],
)
def test_each_event_keeps_its_tag(event: Event, tag: str) -> None:
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(event))["type"] == tag
