"""Calls of one Google model over REST, as the Gemini API and Vertex AI share them."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import msgspec

from knowalledge.core.errors import KnowalledgeError, ProviderAuth, ProviderGarbage
from knowalledge.gateway.domain.answer import Chunk, Completion, Finish
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.net.http.client import HttpClient, Response
from knowalledge.providers import google

encode = msgspec.json.Encoder().encode
# Characters that need no quoting when a model's name is part of a URL path.
MODEL_SAFE = "-._~@:/"


class AuthHeaders(Protocol):
    """The request headers that authenticate a call."""

    def lines(self, timeout: float) -> bytes:
        """The headers in wire format. ``timeout``: seconds to wait for a token.

        Raises ``ProviderAuth``, or ``ProviderTimeout`` if no token arrives in time.
        """
        ...

    def invalidate(self) -> None:
        """The provider rejected them (401): renew them before the next call, if they can be renewed."""
        ...


# The data of server-sent events in the batches in which they arrive; returns the response if its status is not 200.
EventBatches = Generator[Sequence[bytes], None, Response | None]


def stream_chunks(
    open_events: Callable[[], EventBatches], raise_error: Callable[[Response], None], passes: bool = False
) -> Generator[list[Chunk], None, None]:
    """The chunks of a streamed response, in the batches in which they arrive. Closing it closes the events.

    ``passes``: the client speaks this dialect, so each chunk keeps the provider's words.

    ``raise_error`` raises the typed error of a response whose status is not 200.
    """
    # The finishing chunk is held until the stream ends: older models set a finish reason on every chunk.
    last: Chunk | None = None
    has_calls = False
    events = open_events()
    try:
        while True:
            try:
                batch = next(events)
            except StopIteration as end:
                response = end.value
                if response is not None:
                    if response.status != 200:
                        raise_error(response)
                    # The whole answer at once, or an error.
                    last = google.read_chunk(response.body, passes)
                    has_calls = has_calls or bool(last.tool_calls)
                break
            chunks, last, failure = _read_batch(batch, last, passes)
            has_calls = has_calls or any(it.tool_calls for it in (*chunks, *((last,) if last else ())))
            if chunks:  # chunks before a failure are delivered first
                yield chunks
            if failure is not None:
                raise failure
    finally:
        events.close()
    if last is None or last.finish is None:
        raise ProviderGarbage("the provider's stream ended in the middle")
    if last.finish is Finish.STOP and has_calls:
        last = msgspec.structs.replace(last, finish=Finish.TOOL_CALLS)
    yield [last]


def _read_batch(
    batch: Sequence[bytes], last: Chunk | None, passes: bool
) -> tuple[list[Chunk], Chunk | None, KnowalledgeError | None]:
    """The chunks of events that came together, the finishing one so far, and the failure that one of them reports."""
    chunks: list[Chunk] = []
    try:
        for data in batch:
            if not data:
                continue
            chunk = google.read_chunk(data, passes)
            if last is not None:
                chunks.append(msgspec.structs.replace(last, finish=None, has_content=True))
                last = None
            if chunk.finish is not None:
                last = chunk
            elif chunk.text or chunk.tool_calls or chunk.usage is not None or chunk.verbatim is not None:
                chunks.append(chunk)
    except KnowalledgeError as error:
        return chunks, last, error
    return chunks, last, None


class GoogleRest:
    """The calls common to both APIs. ``path``: the model's resource, e.g. ``/v1beta/models/gemini-2.5-flash``."""

    def __init__(self, http: HttpClient, path: str, headers: AuthHeaders) -> None:
        self._http = http
        self._generate = f"{path}:generateContent"
        self._stream = f"{path}:streamGenerateContent?alt=sse"
        self._path = path
        self._wants_signatures = "gemini-3" in path
        self._headers = headers

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        body = self._body(prompt)
        return google.read_completion(self._call(self._generate, body, timeout), prompt.source is not None)

    def _body(self, prompt: Prompt) -> bytes:
        source = prompt.source
        return google.request_body(prompt, self._wants_signatures) if source is None else source.body

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        def open_events() -> EventBatches:
            return self._http.events(self._stream, self._body(prompt), *self._authenticate(timeout))

        return stream_chunks(open_events, self._raise_error, prompt.source is not None)

    def close(self) -> None:
        self._http.close()

    def _call(self, path: str, body: bytes, timeout: float) -> bytes:
        """The body of the response to one POST. Raises the typed error of a status other than 200."""
        response = self._http.post(path, body, *self._authenticate(timeout))
        if response.status != 200:
            self._raise_error(response)
        return response.body

    def _authenticate(self, timeout: float) -> tuple[bytes, float]:
        """The headers of a call, and the seconds that remain of ``timeout`` once they are known."""
        clock = self._http.clock
        started = clock.monotonic()
        lines = self._headers.lines(timeout)
        return lines, timeout - (clock.monotonic() - started)

    def _count_tokens(self, body: Any, timeout: float) -> int:
        return google.read_count(self._call(f"{self._path}:countTokens", encode(body), timeout))

    def _raise_error(self, response: Response) -> None:
        try:
            google.raise_error(response)
        except ProviderAuth:
            if response.status == 401:
                self._headers.invalidate()
            raise
