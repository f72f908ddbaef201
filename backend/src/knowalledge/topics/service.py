"""Topics: a query in, a whole document out, from the nearest place that has it."""

from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Literal, Protocol

from msgspec import Struct
from msgspec.structs import replace

from knowalledge.caching.domain import SCHEMA, CacheEntry, Key, digest, etag_of, pack, slug, unpack
from knowalledge.caching.layers import CacheLookup
from knowalledge.caching.ports import CacheTelemetry
from knowalledge.caching.read_through import ReadThrough
from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.core.context import RequestContext
from knowalledge.gateway.domain.answer import Answer, CacheInfo, Finish
from knowalledge.gateway.domain.prompt import Blob, Prompt
from knowalledge.gateway.domain.request import Request
from knowalledge.topics import demonstration
from knowalledge.topics.domain import (
    Malformed,
    Seen,
    TopicQuery,
    degraded,
    document,
    document_key,
    normalize_topic,
    parse,
    read,
)
from knowalledge.topics.images import Image
from knowalledge.topics.prompt_files import PromptFile, repaired

# Calls for one answer: the first, and one to repair a malformed answer.
MAX_CALLS = 2
# A refresh waits this much longer than its request's deadline for the outcome, in seconds.
OUTCOME_GRACE_S = 1.0
# Characters of a malformed answer that are sent back for repair.
_MAX_REPAIR = 20_000


class Completes(Protocol):
    """The part of ``Gateway`` that topics need."""

    def complete(self, context: RequestContext, request: Request) -> Answer: ...


class TopicDocument(Struct, frozen=True):
    """A whole answer and where it came from. ``tags``: for the CDN."""

    body: bytes
    etag: str
    tags: tuple[str, ...]
    cache: CacheInfo
    fresh_for_s: float = 0.0
    degraded: bool = False


class Recipe(Struct, frozen=True):
    """How an answer is made: the prompt, and what turns the model's text into a body (or raises ``Malformed``)."""

    prompt: Prompt
    render: Callable[[str, str], bytes]  # from the text and the model's name


_REUSED, _NEW = b"c", b"m"  # the first byte of a flight's piece


class Topics:
    """The use cases of the topic API. Each raises ``KnowalledgeError`` subclasses only."""

    def __init__(
        self,
        gateway: Completes,
        reads: ReadThrough,
        clock: Clock,
        prompts: Mapping[str, PromptFile],
        model: str,
        telemetry: CacheTelemetry,
        on_query: Callable[[TopicQuery], None] = lambda _: None,
        timeout_s: float = 60.0,
        *,
        small: bool = False,
    ) -> None:
        """``on_query`` is called with every query; ``timeout_s`` is the deadline of contexts without one.

        ``small``: ``model`` is a demonstration model, so queries are fitted to it.
        """
        self._gateway, self._reads, self._clock = gateway, reads, clock
        self._prompts, self.model = prompts, model
        self._telemetry = telemetry
        self._on_query = on_query
        self._timeout_s = timeout_s
        self._small = small

    def key(self, query: TopicQuery) -> Key:
        return document_key(self._fitted(query), self.model, self._prompts[query.view].version)

    def _fitted(self, query: TopicQuery) -> TopicQuery:
        return demonstration.fitted(query) if self._small else query

    def get_local(self, key: Key) -> TopicDocument | None:
        """A fresh document from memory, or None. No IO."""
        lookup = self._reads.layers.get_local(key)
        if lookup is None or lookup.entry is None:
            return None
        self._telemetry.cached("memory", "hit", lookup.entry)
        fresh_for_s = self._reads.layers.lifetimes.life_s - lookup.age_s
        return TopicDocument(
            lookup.entry.body,
            lookup.entry.etag,
            key.tags,
            CacheInfo("hit", "memory", int(lookup.age_s)),
            fresh_for_s,
        )

    def record_not_modified(self) -> None:
        """Count a 304: the browser or CDN has the current document."""
        self._telemetry.cached("browser", "hit")

    def record_query(self, query: TopicQuery) -> None:
        """Count a query that is answered without ``get``."""
        self._on_query(query)

    def get(self, query: TopicQuery, context: RequestContext) -> TopicDocument:
        """The document that answers a query."""
        self._on_query(query)
        return self._serve(self.key(query), self._recipe(query), context)

    def describe(self, image: Image, lang: str, context: RequestContext) -> TopicDocument:
        """The topic that an image shows. One tenant's same image is sent to the model once."""
        file = self._prompts["image"]
        tenant = slug(context.principal.tenant)
        image_digest = digest(SCHEMA, context.principal.tenant, image.data, lang, self.model, file.version)
        key = Key.of(f"image:{tenant}:{image_digest}", "image", f"tenant:{tenant}")
        prompt = file.fill({"lang": lang}, 0, Blob(image.mime, image.data))
        return self._serve(key, Recipe(prompt, partial(_render_image, file.version)), context)

    def made_at(self, query: TopicQuery) -> float | None:
        """When the cached document was made, in epoch seconds; None if there is none."""
        lookup = self._reads.layers.peek(self.key(query))
        return lookup.entry.made_at if lookup.entry else None

    def refresh(self, query: TopicQuery, context: RequestContext, due_s: float) -> bool:
        """Make a document anew if it is at least ``due_s`` old, once over all replicas; False if it was not due."""
        key = self.key(query)
        # A flight of its own: callers must not wait behind a run of low priority.
        name = f"refresh:{key.name}"
        if self._reads.flights.flying(key.name) or self._reads.flights.flying(name):
            return False  # a run is under way; it may take minutes, so it is neither paid for twice nor awaited here
        lookup = self._reads.layers.get_shared(key)
        if lookup.entry is not None and lookup.age_s < due_s:
            return False  # another replica has just refreshed it
        newer_than = lookup.entry.made_at if lookup.entry else 0.0
        work = self._work(key, self._recipe(query), context, newer_than)
        for _ in self._reads.flights.fly(name, work).follow(self._deadline_s(context) + OUTCOME_GRACE_S):
            pass
        return True

    def _deadline_s(self, context: RequestContext) -> float:
        return self._timeout_s if context.timeout_s is None else context.timeout_s

    def _recipe(self, query: TopicQuery) -> Recipe:
        file, query = self._prompts[query.view], self._fitted(query)
        return Recipe(file.for_query(query), partial(_render, query, file))

    def _serve(self, key: Key, recipe: Recipe, context: RequestContext) -> TopicDocument:
        lookup = self._reads.lookup(key, context.trace)
        if lookup.fresh and lookup.entry is not None:
            return self._document(key, lookup.entry, CacheInfo("hit", lookup.layer, int(lookup.age_s)))
        try:
            return self._fly(key, recipe, context, lookup)
        except e.KnowalledgeError as error:
            entry = self._reads.fallback(lookup, error)
            if entry is None:
                raise
        info = CacheInfo("stale", lookup.layer, int(entry.age(self._clock.now())))
        self._telemetry.cached("flight", "stale", entry)
        body = degraded(entry.body)
        return TopicDocument(body, etag_of(body), key.tags, info, degraded=True)

    def _fly(self, key: Key, recipe: Recipe, context: RequestContext, lookup: CacheLookup) -> TopicDocument:
        flight = self._reads.flights.fly(key.name, self._work(key, recipe, context))
        data = b""
        for piece in self._reads.follow(flight, lookup, self._deadline_s(context)):
            data = piece or b""
        entry = unpack(data[1:])
        if entry is None:
            raise e.ProviderGarbage("the answer was lost on its way")
        shared = data[:1] == _REUSED or not flight.led
        if shared:
            self._telemetry.cached("flight", "shared", entry)
        status: Literal["shared", "miss"] = "shared" if shared else "miss"
        return self._document(key, entry, CacheInfo(status))

    def _document(self, key: Key, entry: CacheEntry, info: CacheInfo) -> TopicDocument:
        if entry.model not in (
            "",
            self.model,
        ):  # a fallback model answered: never stored, and marked as degraded
            body = degraded(entry.body)
            return TopicDocument(body, etag_of(body), key.tags, info, degraded=True)
        fresh_for_s = max(0.0, self._reads.layers.lifetimes.life_s - entry.age(self._clock.now()))
        return TopicDocument(entry.body, entry.etag, key.tags, info, fresh_for_s)

    def _work(
        self, key: Key, recipe: Recipe, context: RequestContext, newer_than: float | None = None
    ) -> Callable[[], Iterator[bytes]]:
        """A flight's work: its only piece is the packed entry, marked as reused or new."""

        def make(generation: int) -> Iterator[bytes]:
            entry = replace(self._make(recipe, context), generation=generation)
            if entry.model == self.model:
                self._reads.layers.store(key, entry)
            yield _NEW + pack(entry)

        return partial(self._reads.run, key, lambda entry: _REUSED + pack(entry), make, newer_than=newer_than)

    def _ask(self, context: RequestContext, prompt: Prompt) -> Answer:
        """The model's answer. A prompt of ours that the provider rejects is no fault of the reader's."""
        try:
            return self._gateway.complete(context, Request(self.model, prompt))
        except e.ProviderRejected as error:
            if _has_image(prompt):  # the image is the caller's
                raise
            raise e.ProviderError("the provider does not take this question") from error

    def _make(self, recipe: Recipe, context: RequestContext) -> CacheEntry:
        prompt, spent = recipe.prompt, [0, 0]  # input and output tokens
        for calls_left in reversed(range(MAX_CALLS)):
            answer = self._ask(context, prompt)
            spent[0] += answer.usage.input
            spent[1] += answer.usage.generated
            text = answer.completion.text
            try:
                if answer.completion.finish is not Finish.STOP:
                    raise Malformed("it was cut off; be shorter")
                body = recipe.render(text, answer.model)
            except Malformed as error:
                if not calls_left:
                    raise e.ProviderGarbage("the model did not give a whole answer, twice") from None
                prompt = repaired(recipe.prompt, text[:_MAX_REPAIR], str(error))
                continue
            return CacheEntry(body, etag_of(body), self._clock.now(), 0, answer.model, *spent)
        raise AssertionError("unreachable")


def _has_image(prompt: Prompt) -> bool:
    return any(isinstance(part, Blob) for message in prompt.messages for part in message.parts)


def _render(query: TopicQuery, file: PromptFile, text: str, model: str) -> bytes:
    return document(query, read(query, text), model, file.version, file.demonstration)


def _render_image(version: str, text: str, model: str) -> bytes:
    image: Seen = parse("image", text)
    try:
        topic = normalize_topic(image.topic)
    except e.InvalidRequest as error:
        raise Malformed(error.message) from None
    query = TopicQuery("whole", topic)
    fields = {
        "title": image.topic,
        "description": image.description,
        "alternatives": image.alternatives,
        "href": query.path.partition("?")[0],
    }
    return document(query, fields, model, version)
