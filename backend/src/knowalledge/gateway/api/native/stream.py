"""A streamed answer of the native API: the named events ``queued``, ``started``, ``delta``, ``done``, ``error``."""

import msgspec
from msgspec import Struct

from knowalledge.gateway.api.native import schemas
from knowalledge.gateway.api.native.answers import answer_body
from knowalledge.gateway.api.streaming import CONTENT_TYPE, KEEP_ALIVE
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.web.problems import problem

_encode = msgspec.json.Encoder().encode


def _event(name: bytes, data: object) -> bytes:
    return b"event: %b\ndata: %b\n\n" % (name, _encode(data))


class NativeStream(Struct, frozen=True):
    """Implements ``StreamRenderer``."""

    request_id: str
    content_type: str = CONTENT_TYPE
    heartbeat: bytes = KEEP_ALIVE

    def opens(self, event: Event) -> bool:  # noqa: ARG002 - every event is sent, positions in the queue included
        return True

    def render(self, event: Event) -> bytes:
        match event:
            case Delta(text):
                # ``schemas.Piece`` by hand: there are more of these than of all others.
                return b'event: delta\ndata: {"text":%b}\n\n' % _encode(text) if text else b""
            case QueuePosition(position, eta_s):
                return _event(b"queued", schemas.Place(position, round(eta_s, 1)))
            case Started(model, target):
                return _event(b"started", schemas.Begun(model, target))
            case Done(answer):
                return _event(b"done", answer_body(answer))

    def render_error(self, error: BaseException) -> bytes:
        return _event(b"error", problem(error, self.request_id))
