"""One streamed call of a provider: its chunks as events, and what has come of the answer so far."""

from collections.abc import Callable, Generator

from msgspec.structs import replace

from knowalledge.core.clock import Clock
from knowalledge.gateway.domain.answer import Completion, Finish, Usage
from knowalledge.gateway.domain.events import Delta, Event, Started
from knowalledge.gateway.domain.prompt import Prompt, Text, ToolCall
from knowalledge.gateway.service.dispatcher import Progress, ProviderCall


class StreamedCall:
    """Adds up the chunks of one call. ``started`` gives the event that goes before the first content."""

    __slots__ = (
        "_call",
        "_clock",
        "_finish",
        "_held",
        "_model_version",
        "_reason",
        "_started",
        "_texts",
        "_tool_calls",
        "_usage",
        "first_token_at",
    )

    def __init__(self, call: ProviderCall, clock: Clock, started: Callable[[ProviderCall], Started]) -> None:
        self._call, self._clock, self._started = call, clock, started
        self._texts: list[str] = []
        self._tool_calls: list[ToolCall] = []
        self._usage: Usage | None = None
        self._finish = Finish.OTHER
        self._reason = ""
        self._model_version = ""
        self._held: tuple[bytes, ...] = ()  # the provider's words before the first content
        self.first_token_at = 0.0  # monotonic; 0: no content yet

    def events(self, prompt: Prompt) -> Generator[list[Event], None, None]:
        """The events of the call, those that come together in one list. Closing it closes the connection."""
        batches = self._call.target.provider.stream(
            self._call.target.prompt_for(prompt), self._call.timeout_s
        )
        try:
            for chunks in batches:
                events: list[Event] = []
                for chunk in chunks:
                    text, tool_calls, verbatim = chunk.text, chunk.tool_calls, chunk.verbatim
                    # A chunk without content, such as a count while the model thinks, does not rule out another try.
                    if not self.first_token_at:
                        if not (text or tool_calls or chunk.finish or chunk.has_content):
                            self._usage = chunk.usage or self._usage
                            if verbatim is not None:
                                self._held += verbatim.data
                            continue
                        self.first_token_at = self._clock.monotonic()
                        events.append(self._started(self._call))
                        if self._held and verbatim is not None:
                            verbatim = replace(verbatim, data=self._held + verbatim.data)
                    self._usage = chunk.usage or self._usage
                    self._model_version = chunk.model_version or self._model_version
                    if chunk.finish is not None:
                        self._finish, self._reason = chunk.finish, chunk.reason
                    if text or tool_calls:
                        self._texts.append(text)
                        self._tool_calls.extend(tool_calls)
                        events.append(Delta(text, tool_calls, verbatim))
                    elif verbatim is not None and (verbatim.data or verbatim.usage):
                        events.append(Delta("", (), verbatim))
                if events:
                    yield events
        finally:
            batches.close()

    def progress(self) -> Progress:
        """What has come so far."""
        return Progress("".join(self._texts), self._usage, self.first_token_at)

    def completion(self) -> Completion:
        """The whole answer, when the events have ended."""
        text = "".join(self._texts)
        parts: tuple[Text | ToolCall, ...] = ((Text(text),) if text else ()) + tuple(self._tool_calls)
        return Completion(parts, self._finish, self._usage, self._model_version, reason=self._reason)
