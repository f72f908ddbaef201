"""A streamed answer of Gemini's dialect."""

import msgspec

from knowalledge.gateway.api.gemini import schemas
from knowalledge.gateway.api.gemini.answers import answer_parts, content_answer
from knowalledge.gateway.api.gemini.errors import error_body
from knowalledge.gateway.api.gemini.passthrough import elements
from knowalledge.gateway.api.streaming import CONTENT_TYPE
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.gateway.domain.passthrough import Verbatim
from knowalledge.gateway.domain.prompt import Text

_encode = msgspec.json.Encoder().encode


class ContentStream:
    """Implements ``StreamRenderer``: server-sent events, or the elements of one JSON array.

    A silent stream sends empty lines: clients of this dialect fail on comments.
    """

    heartbeat = b"\n"

    def __init__(self, request_id: str, as_array: bool) -> None:
        self._id = request_id
        self._model = ""
        self._passes = False  # the provider's own words are sent
        self._before = b"[" if as_array else b"data: "
        self._after = b"\n" if as_array else b"\n\n"
        # Nothing may follow the bracket: Google's own REST client fails on a line break.
        self._end = b"]" if as_array else b""
        self.content_type = "application/json" if as_array else CONTENT_TYPE

    def opens(self, event: Event) -> bool:
        return not isinstance(
            event, QueuePosition
        )  # the SDKs understand a status better than an empty stream

    def render(self, event: Event) -> bytes:
        match event:
            case Delta(verbatim=Verbatim() as verbatim):
                self._passes = True
                data = elements(verbatim, bool(self._end), self._before == b"[")
                if data and self._end:
                    self._before = b","
                return data
            case Delta(text, calls):
                parts = answer_parts(((Text(text),) if text else ()) + calls)
                if not parts:  # a call that cannot be rendered; the last event tells of it
                    return b""
                candidate = schemas.Candidate(schemas.AnswerContent(parts))
                return self._element(schemas.GenerateContentAnswer((candidate,), self._model, self._id))
            case Started(model):
                self._model = model
                return b""
            case QueuePosition():
                return self.heartbeat
            case Done() if self._passes:
                return self._end
            case Done(answer):
                return self._element(content_answer(answer, ())) + self._end

    def whole(self, body: object) -> bytes:
        """A stream of one element."""
        return self._element(body) + self._end

    def render_error(self, error: BaseException) -> bytes:
        return self._element(error_body(error, self._id)) + self._end

    def _element(self, body: object) -> bytes:
        data = self._before + _encode(body) + self._after
        if self._end:
            self._before = b","
        return data
