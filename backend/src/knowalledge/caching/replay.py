"""What one caller has received of a streamed answer, so that a run that starts again continues where they are."""

from collections.abc import Iterator

from knowalledge.core.errors import ProviderUnavailable
from knowalledge.gateway.domain.answer import Answer
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.gateway.domain.prompt import ToolCall


def started(answer: Answer) -> Started:
    """The first event of an answer that is already whole."""
    return Started(
        answer.model, answer.target, answer.allowances, answer.degraded, answer.reason, answer.cache
    )


def replay(answer: Answer, is_started: bool) -> list[Event]:
    """A stored answer as the events of a stream; ``is_started``: the caller has its first event already."""
    events: list[Event] = [] if is_started else [started(answer)]
    completion = answer.completion
    if completion.parts or completion.verbatim is not None:
        events.append(Delta(completion.text, completion.tool_calls, completion.verbatim))
    return [*events, Done(answer)]


class ReplayCursor:
    """The position of one caller in a stream."""

    def __init__(self) -> None:
        self.is_started = False
        self._received: list[str] = []
        self._length = 0  # of the text received
        self._position = 0  # of the current run in that text
        self._has_calls = False
        self._words_received = self._words = (
            0  # verbatim events without text or calls: received, and in this run
        )

    @property
    def has_output(self) -> bool:
        """Whether the caller has received any of the answer."""
        return bool(self._length or self._has_calls or self._words_received)

    def restart(self) -> None:
        """Begin again with a new run, which repeats the text from its start."""
        self._position = self._words = 0

    def advance(self, event: Event) -> Iterator[Event]:
        """The part of an event that is new to the caller.

        Raises ``ProviderUnavailable`` if the run contradicts what the caller has received.
        """
        match event:
            case QueuePosition():
                if not self.is_started:
                    yield event
            case Started():
                if not self.is_started:
                    self.is_started = True
                    yield event
            case Delta(text, calls):
                if event.verbatim is not None and not (text or calls):
                    self._words += 1
                    if self._words > self._words_received:  # else an earlier run has given it
                        self._words_received = self._words
                        yield event
                    return
                yield from self._append(event, text, calls)
            case Done(answer):
                completion, verbatim = answer.completion, None
                if not self.is_started:  # the run did not stream
                    self.is_started = True
                    verbatim = completion.verbatim
                    yield started(answer)
                rest = completion.text[self._position :]
                calls = () if self._has_calls else completion.tool_calls
                if rest or calls:
                    yield from self._append(Delta(rest, calls, verbatim), rest, calls)
                elif verbatim is not None:
                    yield Delta("", (), verbatim)

    def _append(self, event: Delta, text: str, calls: tuple[ToolCall, ...]) -> Iterator[Event]:
        if self._position < self._length:  # this run repeats what another one has streamed
            known = "".join(self._received)[self._position : self._position + len(text)]
            if not text.startswith(known) or calls:
                raise ProviderUnavailable("the replica that was answering is gone, and its answer with it")
            self._position += len(known)
            text = text[len(known) :]
            event = Delta(text, calls)
        if text or calls:
            self._has_calls = self._has_calls or bool(calls)
            self._received.append(text)
            self._length += len(text)
            self._position += len(text)
            yield event
