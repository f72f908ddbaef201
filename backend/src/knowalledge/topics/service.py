"""The knowledge API: a question about a topic in, a whole document out, from the nearest place that has it."""

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
from knowalledge.topics.domain import (
    Malformed,
    Seen,
    TopicQuery,
    degraded,
    document,
    document_key,
    normal,
    parse,
    read,
)
from knowalledge.topics.images import Image
from knowalledge.topics.prompt_files import PromptFile, repaired

# An answer is asked for twice at most: once, and once more to be repaired.
TRIES = 2
# Whoever makes an answer anew waits this much longer than the request, in seconds, to hear how it ended.
LAST_WORD_S = 1.0
# What can be said to a model about its own answer.
_LONGEST_REPAIR = 20_000


class Asks(Protocol):
    """One whole answer of a model, within the quota."""

    def complete(self, context: RequestContext, request: Request) -> Answer: ...


class TopicDocument(Struct, frozen=True):
    """A whole answer, and where it came from. ``tags`` are those that a CDN should know."""

    body: bytes
    etag: str
    tags: tuple[str, ...]
    cache: CacheInfo
    left_s: float = 0.0  # how long it stays fresh
    degraded: bool = False


class Recipe(Struct, frozen=True):
    """How an answer is made: what is asked, and how its text becomes a body (or ``Malformed``)."""

    prompt: Prompt
    body: Callable[[str, str], bytes]  # the answer's text and the model that gave it


_CACHED, _MADE = b"c", b"m"


class Topics:
    """The use cases of the knowledge API. Each raises ``KnowalledgeError`` subclasses only."""

    def __init__(
        self,
        models: Asks,
        reads: ReadThrough,
        clock: Clock,
        prompts: Mapping[str, PromptFile],
        model: str,
        telemetry: CacheTelemetry,
        asked: Callable[[TopicQuery], None] = lambda _: None,
        timeout_s: float = 60.0,
    ) -> None:
        """``asked`` is called with every question; ``timeout_s`` is the deadline of contexts without one."""
        self._models, self._reads, self._clock = models, reads, clock
        self._prompts, self._model = prompts, model
        self._telemetry = telemetry
        self._asked = asked
        self._timeout_s = timeout_s

    def key(self, asked: TopicQuery) -> Key:
        return document_key(asked, self._model, self._prompts[asked.view].version)

    def near(self, key: Key) -> TopicDocument | None:
        """A fresh answer from memory, or None; no IO and no work."""
        found = self._reads.layers.get_local(key)
        if found is None or found.entry is None:
            return None
        self._telemetry.cached("memory", "hit", found.entry)
        left = self._reads.layers.lifetimes.life_s - found.age_s
        return TopicDocument(
            found.entry.body, found.entry.etag, key.tags, CacheInfo("hit", "memory", int(found.age_s)), left
        )

    def confirmed(self) -> None:
        """A browser or CDN had the answer, and it is still the right one."""
        self._telemetry.cached("browser", "hit")

    def noted(self, asked: TopicQuery) -> None:
        """Somebody asked; for answers that are given without ``get``."""
        self._asked(asked)

    def get(self, asked: TopicQuery, context: RequestContext) -> TopicDocument:
        """The document that answers a question."""
        self._asked(asked)
        return self._serve(self.key(asked), self._recipe(asked), context)

    def see(self, image: Image, lang: str, context: RequestContext) -> TopicDocument:
        """What a picture shows, as a topic. The same tenant's same picture is looked at once."""
        file = self._prompts["image"]
        who = slug(context.principal.tenant)
        seen = digest(SCHEMA, context.principal.tenant, image.data, lang, self._model, file.version)
        key = Key.of(f"image:{who}:{seen}", "image", f"tenant:{who}")
        prompt = file.ask({"lang": lang}, 0, Blob(image.mime, image.data))
        return self._serve(key, Recipe(prompt, partial(_seen, file.version)), context)

    def made_at(self, asked: TopicQuery) -> float | None:
        """When the answer to a question was made, seconds since the epoch; None if there is none."""
        found = self._reads.layers.peek(self.key(asked))
        return found.entry.made_at if found.entry else None

    def refresh(self, asked: TopicQuery, context: RequestContext, due_s: float) -> bool:
        """Make an answer anew that is at least ``due_s`` old, once over all replicas; whether that was so."""
        key = self.key(asked)
        # Not the flight that callers would share: they must not wait behind one of low priority.
        name = f"refresh:{key.name}"
        if self._reads.flights.flying(key.name) or self._reads.flights.flying(name):
            return False  # somebody has it made: what takes minutes is neither paid for twice nor waited for here
        found = self._reads.layers.get_shared(key)
        if found.entry is not None and found.age_s < due_s:
            return False  # another replica has just done it
        than = found.entry.made_at if found.entry else 0.0
        work = self._work(key, self._recipe(asked), context, than)
        for _ in self._reads.flights.fly(name, work).follow(self._deadline_s(context) + LAST_WORD_S):
            pass
        return True

    def _deadline_s(self, context: RequestContext) -> float:
        return self._timeout_s if context.timeout_s is None else context.timeout_s

    def _recipe(self, asked: TopicQuery) -> Recipe:
        file = self._prompts[asked.view]
        return Recipe(file.about(asked), partial(_document, asked, file.version))

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
        shared = data[:1] == _CACHED or not flight.led
        if shared:
            self._telemetry.cached("flight", "shared", entry)
        status: Literal["shared", "miss"] = "shared" if shared else "miss"
        return self._document(key, entry, CacheInfo(status))

    def _document(self, key: Key, entry: CacheEntry, info: CacheInfo) -> TopicDocument:
        if entry.model not in ("", self._model):  # a fallback answered: never stored, and it says so
            body = degraded(entry.body)
            return TopicDocument(body, etag_of(body), key.tags, info, degraded=True)
        left = max(0.0, self._reads.layers.lifetimes.life_s - entry.age(self._clock.now()))
        return TopicDocument(entry.body, entry.etag, key.tags, info, left)

    def _work(
        self, key: Key, recipe: Recipe, context: RequestContext, newer_than: float | None = None
    ) -> Callable[[], Iterator[bytes]]:
        """A flight's work: its only piece is the packed entry, marked as reused or new."""

        def make(generation: int) -> Iterator[bytes]:
            entry = replace(self._make(recipe, context), generation=generation)
            if entry.model == self._model:
                self._reads.layers.store(key, entry)
            yield _MADE + pack(entry)

        return partial(self._reads.run, key, lambda entry: _CACHED + pack(entry), make, newer_than=newer_than)

    def _make(self, recipe: Recipe, context: RequestContext) -> CacheEntry:
        prompt, spent = recipe.prompt, [0, 0]
        for left in reversed(range(TRIES)):
            answer = self._models.complete(context, Request(self._model, prompt))
            spent[0] += answer.usage.input
            spent[1] += answer.usage.generated
            text = answer.completion.text
            try:
                if answer.completion.finish is not Finish.STOP:
                    raise Malformed("it was cut off; be shorter")
                body = recipe.body(text, answer.model)
            except Malformed as error:
                if not left:
                    raise e.ProviderGarbage("the model did not give a whole answer, twice") from None
                prompt = repaired(recipe.prompt, text[:_LONGEST_REPAIR], str(error))
                continue
            return CacheEntry(body, etag_of(body), self._clock.now(), 0, answer.model, *spent)
        raise AssertionError("unreachable")


def _document(asked: TopicQuery, version: str, text: str, model: str) -> bytes:
    return document(asked, read(asked, text), model, version)


def _seen(version: str, text: str, model: str) -> bytes:
    found: Seen = parse("image", text)
    try:
        topic = normal(found.topic)
    except e.InvalidRequest as error:
        raise Malformed(error.message) from None
    asked = TopicQuery("whole", topic)
    fields = {
        "title": found.topic,
        "description": found.description,
        "alternatives": found.alternatives,
        "href": asked.path.partition("?")[0],
    }
    return document(asked, fields, model, version)
