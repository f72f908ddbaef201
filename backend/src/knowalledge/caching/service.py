"""The models' use cases with the caches in front: what every dialect calls.

Where the same question must give the same answer (temperature 0), or the caller asks for it, an answer comes from
memory, from Redis, from another request's flight, from a model, or, when no model can be asked, from what is stale.
All else passes through untouched.
"""

from collections.abc import Callable, Generator, Iterator
from functools import partial

import msgspec
from msgspec.structs import replace

from knowalledge.caching.domain import CacheEntry, Key, answer_key, etag_of, may_keep, may_share
from knowalledge.caching.layers import CacheLookup, Layers
from knowalledge.caching.ports import CacheTelemetry, Flight, Flights
from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.core.context import RequestContext
from knowalledge.gateway.domain.answer import Answer, CacheInfo, Embeddings, QueueInfo, Usage
from knowalledge.gateway.domain.events import Delta, Done, Event, Queued, Started
from knowalledge.gateway.domain.outcomes import Outcome, outcome_of
from knowalledge.gateway.domain.prompt import ToolCall
from knowalledge.gateway.domain.request import CacheMode, Request
from knowalledge.gateway.ports import Record, Telemetry
from knowalledge.gateway.service.gateway import QuotaGateway

# With a stale answer at hand nobody waits longer than this for a fresh one, in seconds; its making goes on.
STALE_PATIENCE_S = 10.0
# What a stale answer makes up for; a request that is itself wrong fails whether or not there is one.
RESCUED = (e.Limited, e.Unavailable, e.ProviderError)

_encode = msgspec.msgpack.Encoder().encode
_event = msgspec.msgpack.Decoder(Queued | Started | Delta | Done).decode
_answer = msgspec.msgpack.Decoder(Answer).decode
_OUTCOMES = {"hit": Outcome.CACHED, "shared": Outcome.SHARED, "stale": Outcome.STALE}


class CachingGateway:
    """Implements what ``QuotaGateway`` does, from the nearest place. Raises ``KnowalledgeError`` subclasses only."""

    def __init__(
        self,
        models: QuotaGateway,
        layers: Layers,
        flights: Flights,
        clock: Clock,
        telemetry: Telemetry,
        counted: CacheTelemetry,
        resolve: Callable[[str], str],
        timeout_s: float,
    ) -> None:
        """``resolve`` gives a model's own name and raises ``UnknownModel``; ``timeout_s`` is the usual patience."""
        self._models, self._layers, self._flights, self._clock = models, layers, flights, clock
        self._telemetry, self._counted = telemetry, counted
        self._resolve = resolve
        self._timeout_s = timeout_s

    # -- what passes through ------------------------------------------------------------------------

    def embed(
        self, context: RequestContext, model: str, inputs: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, str]:
        return self._models.embed(context, model, inputs, dimensions)

    def count_tokens(self, context: RequestContext, request: Request) -> int:
        return self._models.count_tokens(context, request)

    def models(self) -> tuple[str, ...]:
        return self._models.models()

    def model(self, name: str) -> str:
        return self._models.model(name)

    # -- what is cached -----------------------------------------------------------------------------

    def complete(self, context: RequestContext, request: Request) -> Answer:
        """One whole answer."""
        key = self._key(context, request)
        if key is None:
            return self._models.complete(context, request)
        began = self._clock.monotonic()
        found = self._find(key, context, request)
        if found.fresh:
            return self._told(context, began, self._stored(context, found))
        flight = self._fly(key, context, request, stream=False)
        patience = self._patience(context)
        try:
            for piece in flight.follow(patience if found.entry is None else min(patience, STALE_PATIENCE_S)):
                event = _event(piece) if piece else None
                if isinstance(event, Done):
                    return self._landed(context, began, flight, event.answer)
            raise e.ProviderGarbage("the answer was lost on its way")
        except BaseException as error:  # a client that left is told of too
            if found.entry is None or not isinstance(error, RESCUED):
                self._failed(context, request, began, flight.led, error)
                raise
        return self._told(context, began, self._stored(context, found))

    def stream(self, context: RequestContext, request: Request) -> Generator[list[Event], None, None]:
        """The answer as it comes, in the events that have come together.

        Leaving ends what this caller sees; what others may share goes on.
        """
        key = self._key(context, request)
        return self._models.stream(context, request) if key is None else self._shared(key, context, request)

    def _shared(
        self, key: Key, context: RequestContext, request: Request
    ) -> Generator[list[Event], None, None]:
        began = self._clock.monotonic()
        found = self._find(key, context, request)
        if found.fresh:
            yield _replayed(self._told(context, began, self._stored(context, found)), False)
            return
        flight = self._fly(key, context, request, stream=True)
        view = _ReplayCursor()
        try:
            for piece in _follow_flight(flight, view, self._patience(context), found.entry is not None):
                if piece is None:
                    view.restarted()
                    continue
                event = _event(piece)
                if isinstance(event, Started) and not flight.led:
                    event = replace(event, cache=CacheInfo("shared"))
                shown = list(view.shown(event))
                if shown:
                    yield shown
                if isinstance(event, Done):
                    yield [Done(self._landed(context, began, flight, event.answer))]
                    return
            raise e.ProviderGarbage("the answer was lost on its way")
        except BaseException as error:  # a client that left is told of too
            if found.entry is None or view.said or not isinstance(error, RESCUED):
                self._failed(context, request, began, flight.led, error)
                raise
        yield _replayed(self._told(context, began, self._stored(context, found)), view.begun)

    def _key(self, context: RequestContext, request: Request) -> Key | None:
        """The cache key; None if this request has nothing to do with caches."""
        if not may_share(request.prompt, request.cache):
            return None
        try:
            model = self._resolve(request.model)
        except e.UnknownModel:
            return None  # the models say so, and tell of it
        return answer_key(context.principal.tenant, model, request.prompt)

    def _find(self, key: Key, context: RequestContext, request: Request) -> CacheLookup:
        began = self._clock.monotonic() if context.trace.live else 0.0
        found = _apply_max_age(self._layers.find(key), request)
        if context.trace.live:
            context.trace.looked(began, found.result, found.layer or "")
        if not found.fresh and request.cache is CacheMode.ONLY:
            error = e.CacheMiss("no fresh answer is cached", retry_after=1.0)
            self._failed(context, request, self._clock.monotonic(), False, error)
            raise error
        return found

    def _patience(self, context: RequestContext) -> float:
        return self._timeout_s if context.timeout_s is None else context.timeout_s

    def _fly(self, key: Key, context: RequestContext, request: Request, stream: bool) -> Flight:
        # Whoever leads works for all who follow, so a leader of little patience does not cut theirs short.
        leader = replace(context, timeout_s=max(self._patience(context), self._timeout_s))
        return self._flights.fly(key.name, partial(self._work, key, leader, request, stream))

    def _work(self, key: Key, context: RequestContext, request: Request, stream: bool) -> Iterator[bytes]:
        """The run of a flight: look once more, for another may just have landed; then ask."""
        found = _apply_max_age(self._layers.look(key), request)
        if found.fresh and found.entry is not None:
            yield _encode(Done(replace(_answer(found.entry.body), cache=CacheInfo("shared"))))
            return
        answer: Answer | None = None
        if stream:
            for events in self._models.stream(context, request):
                for event in events:
                    if isinstance(event, Done):
                        answer = event.answer
                    else:
                        yield _encode(event)
        else:
            answer = self._models.complete(context, request)
        if answer is None:
            raise e.ProviderGarbage("the stream ended without an answer")
        self._keep(key, request, answer, found.generation)
        yield _encode(Done(answer))

    def _keep(self, key: Key, request: Request, answer: Answer, generation: int) -> None:
        """Store a whole answer of the model that was asked for; never a fallback's, never one that was cut off."""
        if answer.model != self._resolve(request.model) or not may_keep(answer.completion.finish):
            return
        body = _encode(replace(answer, id="", queue=QueueInfo(), allowances=(), degraded=False))
        usage = answer.usage
        entry = CacheEntry(
            body, etag_of(body), self._clock.now(), generation, answer.model, usage.input, usage.generated
        )
        self._layers.keep(key, entry)

    # -- what the caller gets -----------------------------------------------------------------------

    def _stored(self, context: RequestContext, found: CacheLookup) -> Answer:
        if found.entry is None:
            raise AssertionError("nothing was found")
        age = int(found.entry.age(self._clock.now()))
        info = CacheInfo("hit" if found.fresh else "stale", found.layer, age)
        if not found.fresh:
            self._counted.cached("flight", "stale", found.entry)
        return replace(_answer(found.entry.body), id=context.request_id, cache=info, degraded=not found.fresh)

    def _landed(self, context: RequestContext, began: float, flight: Flight, answer: Answer) -> Answer:
        if flight.led and answer.cache.status == "miss":
            return replace(answer, id=context.request_id)
        self._counted.cached("flight", "shared", _saved(answer))
        return self._told(context, began, replace(answer, id=context.request_id, cache=CacheInfo("shared")))

    def _told(self, context: RequestContext, began: float, answer: Answer) -> Answer:
        """Tell of a request that no model was asked for; of the others the models' own record tells."""
        self._telemetry.request(
            Record(
                request_id=context.request_id,
                model=answer.model,
                target=answer.target,
                outcome=_OUTCOMES[answer.cache.status],
                priority=context.priority,
                seconds=self._clock.monotonic() - began,
                usage=Usage(),
                cache=answer.cache.status,
                trace=context.trace,
            )
        )
        return answer

    def _failed(
        self, context: RequestContext, request: Request, began: float, led: bool, error: BaseException
    ) -> None:
        if led:
            return
        self._telemetry.request(
            Record(
                request_id=context.request_id,
                model=self._resolve(request.model),
                target="",
                outcome=outcome_of(error),
                priority=context.priority,
                seconds=self._clock.monotonic() - began,
                usage=Usage(),
                cache="shared",
                error=getattr(error, "code", "internal"),
                trace=context.trace,
            )
        )


def _apply_max_age(found: CacheLookup, request: Request) -> CacheLookup:
    """What was found; older than the caller wants it, it is no more than a fallback."""
    oldest = request.max_age_s
    return found if oldest is None or found.age <= oldest else replace(found, fresh=False)


def _saved(answer: Answer) -> CacheEntry:
    usage = answer.usage
    return CacheEntry(b"", "", 0.0, 0, answer.model, usage.input, usage.generated)


def _replayed(answer: Answer, begun: bool) -> list[Event]:
    """A stored answer as a stream, which may have begun."""
    completion = answer.completion
    events: list[Event] = []
    if not begun:
        events.append(
            Started(
                answer.model,
                answer.target,
                degraded=answer.degraded,
                reason=answer.reason,
                cache=answer.cache,
            )
        )
    if completion.parts:
        events.append(Delta(completion.text, completion.tool_calls))
    return [*events, Done(answer)]


def _follow_flight(
    flight: Flight, view: "_ReplayCursor", patience: float, hurried: bool
) -> Iterator[bytes | None]:
    """What a flight says. ``hurried``: who has something else to show waits only so long for its first word."""
    if hurried and patience > STALE_PATIENCE_S:
        try:
            yield from flight.follow(STALE_PATIENCE_S)
            return
        except e.ProviderTimeout:
            if not view.said:
                raise
        yield None  # once more from its beginning: what was shown is not shown again
    yield from flight.follow(patience)


class _ReplayCursor:
    """What one caller has seen of a stream; so that a run that begins again continues what was shown."""

    def __init__(self) -> None:
        self.begun = False
        self._shown: list[str] = []
        self._length = 0  # of what was shown
        self._at = 0  # how far this run has come
        self._calls = False

    @property
    def said(self) -> bool:
        """Whether the caller has seen some of an answer."""
        return bool(self._length or self._calls)

    def restarted(self) -> None:
        self._at = 0

    def shown(self, event: Event) -> Iterator[Event]:
        """The part of an event that is new. Raises ``ProviderUnavailable`` if it contradicts what was shown."""
        match event:
            case Queued():
                if not self.begun:
                    yield event
            case Started():
                if not self.begun:
                    self.begun = True
                    yield event
            case Delta(text, calls):
                yield from self._added(event, text, calls)
            case Done(answer):
                if not self.begun:  # a run without a stream
                    self.begun = True
                    yield Started(
                        answer.model,
                        answer.target,
                        answer.allowances,
                        answer.degraded,
                        answer.reason,
                        answer.cache,
                    )
                rest = answer.completion.text[self._at :]
                calls = () if self._calls else answer.completion.tool_calls
                if rest or calls:
                    yield from self._added(Delta(rest, calls), rest, calls)

    def _added(self, event: Delta, text: str, calls: tuple[ToolCall, ...]) -> Iterator[Event]:
        if self._at < self._length:  # this run says again what another has said
            known = "".join(self._shown)[self._at : self._at + len(text)]
            if not text.startswith(known) or calls:
                raise e.ProviderUnavailable("the replica that was answering is gone, and its answer with it")
            self._at += len(known)
            text = text[len(known) :]
            event = Delta(text, calls)
        if text or calls:
            self._calls = self._calls or bool(calls)
            self._shown.append(text)
            self._length += len(text)
            self._at += len(text)
            yield event
