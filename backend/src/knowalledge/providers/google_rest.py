"""What Google's two REST APIs share: the calls of one model, over the pooled client."""

from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

import msgspec

from knowalledge.core.errors import KnowalledgeError, ProviderAuth, ProviderGarbage
from knowalledge.gateway.domain.answer import Chunk, Completion, Finish
from knowalledge.gateway.domain.prompt import Prompt
from knowalledge.net.http.client import Http, Reply
from knowalledge.providers import google

encode = msgspec.json.Encoder().encode
# Characters of a model's name that stand in a path as they are.
MODEL_SAFE = "-._~@:/"


class Headers(Protocol):
    """Who we are, as header lines."""

    def lines(self, timeout: float) -> bytes:
        """Raises ``ProviderAuth``, or ``ProviderTimeout`` if they cannot be had in time."""
        ...

    def refused(self) -> None:
        """The provider did not accept them: make new ones if that can help."""
        ...


Messages = Generator[Sequence[bytes], None, Reply | None]


def follow(
    begin: Callable[[], Messages], refused: Callable[[Reply], None]
) -> Generator[list[Chunk], None, None]:
    """The chunks of a stream of messages, those that have come together; closing it closes them.

    ``refused`` raises what the messages were refused with, if they return that.
    """
    # The chunk that finishes is held until the stream ends: older models say of each that it finishes.
    last: Chunk | None = None
    said = called = False
    messages = begin()
    try:
        while True:
            try:
                came = next(messages)
            except StopIteration as end:
                if end.value is not None:
                    refused(end.value)
                break
            chunks = []
            try:
                for data in came:
                    chunk = google.read_chunk(data)
                    if last is not None:
                        chunks.append(msgspec.structs.replace(last, finish=None))
                        last = None
                    if chunk.text:
                        said = True
                    if chunk.tool_calls:
                        called = True
                    if chunk.finish is not None:
                        last = chunk
                    elif chunk.text or chunk.tool_calls or chunk.usage is not None:
                        chunks.append(chunk)
            except KnowalledgeError:
                if chunks:  # what came before it is an answer all the same
                    yield chunks
                raise
            if chunks:
                yield chunks
    finally:
        messages.close()
    if last is None:
        raise ProviderGarbage("the provider's stream ended in the middle")
    if last.finish is Finish.STOP and called:
        last = msgspec.structs.replace(last, finish=Finish.TOOL_CALLS)
    elif google.is_empty(last) and not said:
        raise ProviderGarbage("the provider answered with an empty candidate")
    yield [last]


class GoogleRest:
    """``path`` is the model's resource, e.g. ``/v1beta/models/gemini-2.5-flash``."""

    def __init__(self, http: Http, path: str, headers: Headers) -> None:
        self._http = http
        self._generate = f"{path}:generateContent"
        self._stream = f"{path}:streamGenerateContent?alt=sse"
        self._path = path
        self._headers = headers

    def complete(self, prompt: Prompt, timeout: float) -> Completion:
        return google.read_completion(self.ask(self._generate, google.request_body(prompt), timeout))

    def stream(self, prompt: Prompt, timeout: float) -> Generator[list[Chunk], None, None]:
        def begin() -> Messages:
            body = google.request_body(prompt)
            return self._http.events(self._stream, body, *self._introduced(timeout))

        return follow(begin, self._refused)

    def close(self) -> None:
        self._http.close()

    def ask(self, path: str, body: bytes, timeout: float) -> bytes:
        """One call and the body of its answer. Raises the error that it is answered with."""
        reply = self._http.post(path, body, *self._introduced(timeout))
        if reply.status != 200:
            self._refused(reply)
        return reply.body

    def _introduced(self, timeout: float) -> tuple[bytes, float]:
        """Who we are, and what is left of the time after finding that out."""
        clock = self._http.clock
        began = clock.monotonic()
        lines = self._headers.lines(timeout)
        return lines, timeout - (clock.monotonic() - began)

    def counted(self, body: Any, timeout: float) -> int:
        return google.read_count(self.ask(f"{self._path}:countTokens", encode(body), timeout))

    def _refused(self, reply: Reply) -> None:
        try:
            google.raise_error(reply)
        except ProviderAuth:
            if reply.status == 401:
                self._headers.refused()
            raise
