"""The gateway with caches in front.

Where equal requests must give equal answers (temperature 0), or the client asks for it, an answer comes from the
nearest place: a cache layer, another request's flight, a model, or, if no model can answer, a stale entry. All other
requests pass through unchanged.
"""

from collections.abc import Generator, Iterator, Sequence
from functools import partial

import msgspec
from msgspec.structs import replace

from knowalledge.caching.domain import CacheEntry, Key, answer_key, etag_of, may_cache, may_store
from knowalledge.caching.layers import CacheLookup
from knowalledge.caching.ports import CacheTelemetry, Flight
from knowalledge.caching.read_through import ReadThrough
from knowalledge.caching.replay import ReplayCursor, replay
from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.core.context import RequestContext
from knowalledge.gateway.domain.answer import Answer, CacheInfo, Embeddings, QueueInfo
from knowalledge.gateway.domain.events import Delta, Done, Event, QueuePosition, Started
from knowalledge.gateway.domain.outcomes import Outcome
from knowalledge.gateway.domain.passthrough import DialectName, Verbatim
from knowalledge.gateway.domain.request import CacheMode, Request
from knowalledge.gateway.ports import Gateway, Telemetry
from knowalledge.gateway.service.recording import record_of

_encode = msgspec.msgpack.Encoder().encode
_decode_event = msgspec.msgpack.Decoder(QueuePosition | Started | Delta | Done).decode
_decode_answer = msgspec.msgpack.Decoder(Answer).decode
_OUTCOMES = {"hit": Outcome.CACHED, "shared": Outcome.SHARED, "stale": Outcome.STALE}


class CachingGateway:
    """Implements ``Gateway`` over another one. Raises ``KnowalledgeError`` subclasses only."""

    def __init__(
        self,
        inner: Gateway,
        reads: ReadThrough,
        clock: Clock,
        telemetry: Telemetry,
        cache_telemetry: CacheTelemetry,
        timeout_s: float,
    ) -> None:
        """``timeout_s``: the deadline of a request that names none, and the least one of a flight."""
        self._inner, self._reads, self._clock = inner, reads, clock
        self._telemetry, self._cache_telemetry = telemetry, cache_telemetry
        self._timeout_s = timeout_s

    # -- passed through -----------------------------------------------------------------------------

    def embed(
        self, context: RequestContext, model: str, inputs: tuple[str, ...], dimensions: int | None
    ) -> tuple[Embeddings, str]:
        return self._inner.embed(context, model, inputs, dimensions)

    def count_tokens(self, context: RequestContext, request: Request) -> int:
        return self._inner.count_tokens(context, request)

    def models(self) -> tuple[str, ...]:
        return self._inner.models()

    def speaks(self, name: str, dialect: DialectName) -> bool:
        return self._inner.speaks(name, dialect)

    def model(self, name: str) -> str:
        return self._inner.model(name)

    # -- cached -------------------------------------------------------------------------------------

    def complete(self, context: RequestContext, request: Request) -> Answer:
        """One whole answer."""
        key = self._key(context, request)
        if key is None:
            return self._inner.complete(context, request)
        began = self._clock.monotonic()
        lookup = self._lookup(key, context, request)
        if lookup.fresh and lookup.entry is not None:
            return self._record_hit(context, began, self._stored(context, lookup, lookup.entry))
        flight = self._join_flight(key, context, request, stream=False)
        try:
            for piece in self._reads.follow(flight, lookup, self._deadline_s(context)):
                event = _decode_event(piece) if piece else None
                if isinstance(event, Done):
                    return self._land(context, began, flight, event.answer)
            raise e.ProviderGarbage("the answer was lost on its way")
        except BaseException as error:  # a client that disconnected is recorded too
            entry = self._reads.fallback(lookup, error)
            if entry is None:
                self._record_failure(context, request, began, flight, error)
                raise
        return self._record_hit(context, began, self._stored(context, lookup, entry))

    def stream(self, context: RequestContext, request: Request) -> Generator[Sequence[Event], None, None]:
        """The events of one answer, in the batches in which they arrive.

        Closing the generator ends what this caller receives; a flight that others share continues.
        """
        key = self._key(context, request)
        return (
            self._inner.stream(context, request)
            if key is None
            else self._cached_stream(key, context, request)
        )

    def _cached_stream(
        self, key: Key, context: RequestContext, request: Request
    ) -> Generator[Sequence[Event], None, None]:
        began = self._clock.monotonic()
        lookup = self._lookup(key, context, request)
        if lookup.fresh and lookup.entry is not None:
            yield replay(self._record_hit(context, began, self._stored(context, lookup, lookup.entry)), False)
            return
        flight = self._join_flight(key, context, request, stream=True)
        cursor = ReplayCursor()
        try:
            for piece in self._reads.follow(
                flight, lookup, self._deadline_s(context), lambda: cursor.has_output
            ):
                if piece is None:
                    cursor.restart()
                    continue
                event = _decode_event(piece)
                if isinstance(event, Started) and not flight.led:
                    event = replace(event, cache=CacheInfo("shared"))
                events = list(cursor.advance(event))
                if events:
                    yield events
                if isinstance(event, Done):
                    yield [Done(self._land(context, began, flight, event.answer))]
                    return
            raise e.ProviderGarbage("the answer was lost on its way")
        except BaseException as error:  # a client that disconnected is recorded too
            entry = None if cursor.has_output else self._reads.fallback(lookup, error)
            if entry is None:
                self._record_failure(context, request, began, flight, error)
                raise
        yield replay(
            self._record_hit(context, began, self._stored(context, lookup, entry)), cursor.is_started
        )

    def _key(self, context: RequestContext, request: Request) -> Key | None:
        """The cache key; None for a request that may not be cached."""
        if not may_cache(request.prompt, request.cache):
            return None
        try:
            model = self._inner.model(request.model)
        except e.UnknownModel:
            return None  # the inner gateway raises it, and records it
        return answer_key(context.principal.tenant, model, request.prompt)

    def _lookup(self, key: Key, context: RequestContext, request: Request) -> CacheLookup:
        lookup = self._reads.lookup(key, context.trace, request.max_age_s)
        if not lookup.fresh and request.cache is CacheMode.ONLY:
            error = e.CacheMiss("no fresh answer is cached", retry_after=1.0)
            self._record_failure(context, request, self._clock.monotonic(), None, error)
            raise error
        return lookup

    def _deadline_s(self, context: RequestContext) -> float:
        return self._timeout_s if context.timeout_s is None else context.timeout_s

    # -- the flight's work --------------------------------------------------------------------------

    def _join_flight(self, key: Key, context: RequestContext, request: Request, stream: bool) -> Flight:
        # Followers share the leader's call, so it never runs with less than the default timeout.
        leader = replace(context, timeout_s=max(self._deadline_s(context), self._timeout_s))
        make = partial(self._make, key, leader, request, stream)
        work = partial(self._reads.run, key, _reuse, make, request.max_age_s)
        return self._reads.flights.fly(key.name, work)

    def _make(
        self, key: Key, context: RequestContext, request: Request, stream: bool, generation: int
    ) -> Iterator[bytes]:
        """Call the model and store the answer; yields its events, the whole answer last."""
        answer: Answer | None = None
        spoken: list[Verbatim] = []
        if stream:
            for events in self._inner.stream(context, request):
                for event in events:
                    if isinstance(event, Done):
                        answer = event.answer
                        continue
                    if isinstance(event, Delta) and event.verbatim is not None:
                        spoken.append(event.verbatim)
                    yield _encode(event)
            if spoken and answer is not None:
                answer = _with_verbatim(answer, spoken)
        else:
            answer = self._inner.complete(context, request)
        if answer is None:
            raise e.ProviderGarbage("the stream ended without an answer")
        self._store(key, request, answer, generation)
        yield _encode(Done(answer))

    def _store(self, key: Key, request: Request, answer: Answer, generation: int) -> None:
        """Store a whole answer of the requested model; never a fallback model's, never one that was cut off."""
        completion = answer.completion
        if answer.model != self._inner.model(request.model) or not may_store(completion.finish):
            return
        if not completion.parts:  # an empty answer is passed on, but the next caller may be luckier
            return
        body = _encode(replace(answer, id="", queue=QueueInfo(), allowances=(), degraded=False))
        usage = answer.usage
        entry = CacheEntry(
            body, etag_of(body), self._clock.now(), generation, answer.model, usage.input, usage.generated
        )
        self._reads.layers.store(key, entry)

    # -- what the caller gets -----------------------------------------------------------------------

    def _stored(self, context: RequestContext, lookup: CacheLookup, entry: CacheEntry) -> Answer:
        info = CacheInfo("hit" if lookup.fresh else "stale", lookup.layer, int(entry.age(self._clock.now())))
        if not lookup.fresh:
            self._cache_telemetry.cached("flight", "stale", entry)
        return replace(
            _decode_answer(entry.body), id=context.request_id, cache=info, degraded=not lookup.fresh
        )

    def _land(self, context: RequestContext, began: float, flight: Flight, answer: Answer) -> Answer:
        """The answer of a flight; the inner gateway has recorded the request of its leader."""
        if flight.led and answer.cache.status == "miss":
            return replace(answer, id=context.request_id)
        usage = answer.usage
        saved = CacheEntry(b"", "", 0.0, 0, answer.model, usage.input, usage.generated)
        self._cache_telemetry.cached("flight", "shared", saved)
        shared = replace(answer, id=context.request_id, cache=CacheInfo("shared"))
        return self._record_hit(context, began, shared)

    def _record_hit(self, context: RequestContext, began: float, answer: Answer) -> Answer:
        status, seconds = answer.cache.status, self._clock.monotonic() - began
        self._telemetry.record_request(
            record_of(
                context,
                answer.model,
                seconds,
                outcome=_OUTCOMES[status],
                target=answer.target,
                cache=status,
            )
        )
        return answer

    def _record_failure(
        self,
        context: RequestContext,
        request: Request,
        began: float,
        flight: Flight | None,
        error: BaseException,
    ) -> None:
        if flight is not None and flight.led:
            return  # the inner gateway has recorded it
        model, seconds = self._inner.model(request.model), self._clock.monotonic() - began
        self._telemetry.record_request(record_of(context, model, seconds, error=error, cache="shared"))


def _with_verbatim(answer: Answer, spoken: Sequence[Verbatim]) -> Answer:
    """A streamed answer with the provider's events in its completion, so that they can be replayed."""
    data = tuple(it for verbatim in spoken for it in verbatim.data)
    usage = next((it.usage for it in spoken if it.usage), b"")
    verbatim = replace(spoken[0], data=data, usage=usage)
    return replace(answer, completion=replace(answer.completion, verbatim=verbatim))


def _reuse(entry: CacheEntry) -> bytes:
    return _encode(Done(replace(_decode_answer(entry.body), cache=CacheInfo("shared"))))
