"""What may be cached, under which key, for how long, and how it is invalidated.

A *generation* is one number that grows with every invalidation. An invalidation records a tag with a new generation;
an entry carries the generation at which it was requested, and is valid while none of its tags has a later one. So an
invalidation costs the same for one entry as for a million, and an answer that was in flight when its tag was
invalidated is never served.
"""

import re
import zlib
from collections import OrderedDict
from collections.abc import Iterable
from fnmatch import fnmatchcase
from hashlib import sha256
from typing import Literal
from unicodedata import normalize
from urllib.parse import quote

import msgspec
from msgspec import Struct

from knowalledge.core.errors import InvalidRequest
from knowalledge.gateway.domain.answer import Finish
from knowalledge.gateway.domain.prompt import FileRef, Prompt
from knowalledge.gateway.domain.request import CacheMode

# Part of every key and stored entry; incremented when the form of either changes.
SCHEMA = 1
# Smaller entries are stored uncompressed: compression would cost more than it saves.
COMPRESS_FROM = 1024
# Bytes that an entry may decompress to; nothing larger is ever stored.
MAX_ENTRY_BYTES = 8 * 1024 * 1024
# Tags whose last invalidation is recorded one by one; beyond it the oldest are merged into the floor.
MAX_TAGS = 100_000

ALL = "*"  # a tag of every entry
BARRIER = "!"  # prefix of the records that keep answers in flight from being stored


class Key(Struct, frozen=True):
    """An entry's unique name, readable as ``kind:subject:...``, and the tags that invalidate it.

    The name is one of its tags, and so is ``ALL``.
    """

    name: str
    tags: tuple[str, ...]

    @classmethod
    def of(cls, name: str, *tags: str) -> "Key":
        return cls(name, (ALL, *tags, name))

    @property
    def shared_tags(self) -> tuple[str, ...]:
        """The tags that other entries may carry too."""
        return self.tags[:-1]

    @property
    def barriers(self) -> tuple[str, ...]:
        """Records that may keep the entry from being stored: see ``Invalidation.record_key``."""
        return (BARRIER, BARRIER + self.name.partition(":")[0])


class CacheEntry(Struct, frozen=True, array_like=True):
    """A response body that is ready to send, and what it was made from."""

    body: bytes
    etag: str  # of the body, quoted, strong
    made_at: float  # seconds since the epoch
    generation: int = 0  # at which it was requested
    model: str = ""
    input_tokens: int = 0  # spent to make it, so saved by each hit
    output_tokens: int = 0

    def age(self, now: float) -> float:
        """Seconds; never negative, though two machines' clocks may differ."""
        return max(0.0, now - self.made_at)


class LayerLookup(Struct, frozen=True):
    """One layer's answer: the entry if it holds a valid one, and the generation of this lookup."""

    entry: CacheEntry | None
    generation: int  # 0: the layer is unavailable
    held_s: float = 0.0  # since when this layer holds it


class Lifetimes(Struct, frozen=True):
    """Seconds. ``life_s``: an entry is fresh. ``stale_s``: after that, it may serve as a fallback.

    ``memory_s``: a worker answers from its own memory before it asks the shared layer again.
    """

    memory_s: float
    life_s: float
    stale_s: float
    browser_s: float = 300.0
    cdn_s: float = 1800.0

    @property
    def whole_s(self) -> float:
        return self.life_s + self.stale_s


_GLOB = frozenset("*?[")


class Invalidation(Struct, frozen=True):
    """The entries to invalidate: all with a tag, or all whose name matches a glob pattern."""

    kind: Literal["tag", "glob"]
    pattern: str  # the tag, or the glob

    def matches(self, key: Key) -> bool:
        return self.pattern in key.tags if self.kind == "tag" else fnmatchcase(key.name, self.pattern)

    @property
    def record_key(self) -> str:
        """The name under which its generation is recorded.

        A tag is recorded as itself and is checked when an entry is read. A glob removes the entries that exist and is
        recorded as a barrier: no answer of its kind that was requested earlier is stored.
        """
        if self.kind == "tag":
            return self.pattern
        family = self.pattern.partition(":")[0]
        return BARRIER if _GLOB & set(family) else BARRIER + family

    @property
    def index_tag(self) -> str:
        """The tag whose index holds every entry that it may match."""
        return self.pattern if self.kind == "tag" else self.record_key.removeprefix(BARRIER) or ALL


def etag_of(body: bytes) -> str:
    """A strong validator: equal bytes, equal tag."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def slug(text: str) -> str:
    """A text as one word of a name or tag: ASCII without spaces, commas, colons or glob characters."""
    word = quote(text, safe="")
    return word if len(word) <= 96 else f"{word[:48].rpartition('%')[0] or word[:48]}~{digest(text)}"


def digest(*parts: object) -> str:
    """128 bits of SHA-256 over a canonical encoding, in which parts cannot run into one another."""
    return sha256(_canonical(parts)).hexdigest()[:32]


_canonical = msgspec.msgpack.Encoder(order="deterministic").encode


def answer_key(tenant: str, model: str, prompt: Prompt) -> Key:
    """The key of a private answer: the tenant, the model and everything that changes the answer."""
    who = f"tenant:{slug(tenant)}"
    source = prompt.source
    question = prompt if source is None else (source.dialect, source.canonical())
    name = f"answer:{slug(tenant)}:{digest(SCHEMA, tenant, model, question)}"
    return Key.of(name, "answer", who, f"model:{slug(model)}")


def may_cache(prompt: Prompt, mode: CacheMode | None) -> bool:
    """Whether the answer may come from the cache, and be stored in it.

    Only where the client expects equal answers (temperature 0) or asks for it, and never when bypassed. Media behind a
    URL may change, so such a prompt is cached only on request.
    """
    if mode is CacheMode.BYPASS:
        return False
    if mode is not None:
        return True
    linked = any(isinstance(part, FileRef) for message in prompt.messages for part in message.parts)
    return prompt.temperature == 0 and not linked


def may_store(finish: Finish) -> bool:
    """Only whole answers: never one that was cut off or blocked, or ended for an unknown reason."""
    return finish in (Finish.STOP, Finish.TOOL_CALLS)


def _fold_topic(text: str) -> str:
    """A topic pattern in the folded case of topic names; percent-encoding is left as it is."""
    if not text.startswith("topic:"):
        return text
    parts = _ESCAPE.split(text)  # every second part is an escape
    folded = [it.upper() if at % 2 else normalize("NFC", it).casefold() for at, it in enumerate(parts)]
    return " ".join("".join(folded).split())


_ESCAPE = re.compile("(%[0-9A-Fa-f]{2})")


def parse_pattern(pattern: str) -> Invalidation:
    """A pattern as operators write it: ``*``, ``topic:*``, ``topic:black holes``, ``topic:black*``.

    ``*``, ``kind:*`` and ``kind:subject:*`` are tags, invalidated in one step. A pattern without a glob character is a
    tag or a name. Only other patterns are compared with every name of their kind. Raises ``InvalidRequest``.
    """
    text = pattern.strip()
    if not text or len(text) > 500 or not text.isprintable():
        raise InvalidRequest("write a pattern such as topic:* or topic:photosynthesis", param="pattern")
    text = quote(_fold_topic(text), safe=":*?[]~!%-._")
    stem = text.removesuffix(":*")
    if not _GLOB & set(stem):
        return Invalidation("tag", stem)
    return Invalidation("tag", ALL) if text == ALL else Invalidation("glob", text)


class Generations:
    """Which tags were invalidated, and at which generation: the arithmetic that every layer repeats.

    Bounded: beyond ``max_tags`` the oldest half is merged into a floor, and entries of an earlier generation than the
    floor count as invalid. Forgetting costs hits, never correctness.
    """

    def __init__(self, start: int = 1, max_tags: int = MAX_TAGS) -> None:
        self.now = start  # the newest generation
        self._floor = 0  # entries of earlier generations are invalid
        self._tags: OrderedDict[str, int] = OrderedDict()  # oldest first
        self._max_tags = max_tags

    def invalidate(self, tag: str) -> int:
        """Invalidate a tag; the new generation."""
        self.record(tag, self.now + 1)
        return self.now

    def record(self, tag: str, generation: int) -> None:
        """Record that a tag was invalidated, here or in another replica."""
        self.now = max(self.now, generation)
        self._tags.pop(tag, None)
        self._tags[tag] = generation
        if len(self._tags) > self._max_tags:
            for _ in range(self._max_tags // 2):
                self._floor = max(self._floor, self._tags.popitem(last=False)[1])

    def reset(self, generation: int) -> None:
        """Earlier invalidations are unknown: all entries of an earlier generation become invalid."""
        self.now = max(self.now, generation)
        self._floor = max(self._floor, generation)
        self._tags.clear()

    def is_valid(self, tags: Iterable[str], generation: int) -> bool:
        if generation < self._floor:
            return False
        invalidated = self._tags
        return not invalidated or all(invalidated.get(tag, 0) <= generation for tag in tags)


# -- entries as bytes ------------------------------------------------------------------------------------------

_MAGIC = b"kn%d" % SCHEMA
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CacheEntry).decode


def pack(entry: CacheEntry) -> bytes:
    """An entry for a shared store: schema, compression mark, CRC-32, payload."""
    raw = _encode(entry)
    mark = b"r"
    if len(raw) >= COMPRESS_FROM:
        small = zlib.compress(raw, 1)
        if len(small) < 0.9 * len(raw):
            raw, mark = small, b"z"
    return _MAGIC + mark + zlib.crc32(raw).to_bytes(4, "big") + raw


def unpack(data: bytes) -> CacheEntry | None:
    """The entry in these bytes; None for anything that this version did not write."""
    head = len(_MAGIC)
    mark, check, raw = data[head : head + 1], data[head + 1 : head + 5], data[head + 5 :]
    if data[:head] != _MAGIC or zlib.crc32(raw).to_bytes(4, "big") != check:
        return None
    try:
        if mark == b"z":
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(raw, MAX_ENTRY_BYTES)
            if unpacker.unconsumed_tail:
                return None
        return _decode(raw)
    except (zlib.error, msgspec.MsgspecError):
        return None
