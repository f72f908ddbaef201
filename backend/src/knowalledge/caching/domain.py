"""What may be kept, under which name, for how long, and how it is taken back.

An entry carries the *generation* that it was asked under: one number that grows with every invalidation. Taking back a
tag notes the tag with a new generation; an entry is valid while none of its tags was taken back after its own
generation. So an invalidation costs the same for one entry as for a million, and an answer that was already on its way
when its tag was taken back is never served.
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

# Part of every key and of every stored entry: whoever changes the form of either adds one.
SCHEMA = 1
# An entry smaller than this is stored as it is; compressing it would cost more than it saves.
COMPRESS_FROM = 1024
# What an entry may unpack to: nothing that we store is larger, so anything larger is not ours.
LARGEST = 8 * 1024 * 1024
# Tags whose last generation is remembered one by one; beyond, the oldest are forgotten on the safe side.
MOST_TAGS = 100_000

ALL = "*"  # the tag of everything
BAR = "!"


class Key(Struct, frozen=True):
    """An entry's unique name, readable as ``kind:subject:...``, and the tags that take it back.

    The name itself is one of its tags, and so is ``ALL``.
    """

    name: str
    tags: tuple[str, ...]

    @classmethod
    def of(cls, name: str, *tags: str) -> "Key":
        return cls(name, (ALL, *tags, name))

    @property
    def families(self) -> tuple[str, ...]:
        """The tags that other entries carry too."""
        return self.tags[:-1]

    @property
    def bars(self) -> tuple[str, ...]:
        """What may bar an entry from being put: see ``Take.mark``."""
        return (BAR, BAR + self.name.partition(":")[0])


class CacheEntry(Struct, frozen=True, array_like=True):
    """Something kept: bytes that are ready to be sent, and what they were made with."""

    body: bytes
    etag: str  # of the body, quoted, strong
    made_at: float  # seconds since the epoch
    born: int = 0  # the generation that it was asked under
    model: str = ""
    input_tokens: int = 0  # what making it took, hence what each hit saves
    output_tokens: int = 0

    def age(self, now: float) -> float:
        """Seconds; never negative, whatever two machines' clocks say."""
        return max(0.0, now - self.made_at)


class LayerLookup(Struct, frozen=True):
    """What a layer knows of a key: the entry if it holds a valid one, and the generation of this look."""

    entry: CacheEntry | None
    generation: int  # 0: the layer is away
    held_s: float = 0.0  # how long this layer has held it


class Lifetimes(Struct, frozen=True):
    """Seconds: ``life`` is how long an answer is fresh; ``stale`` how long past it the answer may be a fallback.

    ``memory`` is how long a worker answers from its own memory before it looks at the shared layer again.
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
    """What an invalidation takes back: everything with a tag, or every name that matches a pattern."""

    kind: Literal["tag", "glob"]
    what: str

    def hits(self, key: Key) -> bool:
        return self.what in key.tags if self.kind == "tag" else fnmatchcase(key.name, self.what)

    @property
    def mark(self) -> str:
        """What its generation is noted under.

        A tag under itself: it decides who may be read. A pattern removes what is there, and bars what is still on its
        way from being put: every answer of its kind that was asked for before.
        """
        if self.kind == "tag":
            return self.what
        family = self.what.partition(":")[0]
        return BAR if _GLOB & set(family) else BAR + family

    @property
    def family(self) -> str:
        """The tag under which everything that it may hit is found."""
        return self.what if self.kind == "tag" else self.mark.removeprefix(BAR) or ALL


def etag_of(body: bytes) -> str:
    """A strong validator: equal bytes, equal tag."""
    return f'"{sha256(body).hexdigest()[:32]}"'


def slug(text: str) -> str:
    """A text as one safe word of a name or a tag: ASCII without spaces, commas, colons or glob characters."""
    word = quote(text, safe="")
    return word if len(word) <= 96 else f"{word[:48].rpartition('%')[0] or word[:48]}~{digest(text)}"


def digest(*parts: object) -> str:
    """128 bits of SHA-256 over a canonical encoding: parts cannot run into one another."""
    return sha256(_canonical(parts)).hexdigest()[:32]


_canonical = msgspec.msgpack.Encoder(order="deterministic").encode


def answer_key(tenant: str, model: str, prompt: Prompt) -> Key:
    """The key of a private answer: its tenant, the model and everything that changes what the model says."""
    who = f"tenant:{slug(tenant)}"
    name = f"answer:{slug(tenant)}:{digest(SCHEMA, tenant, model, prompt)}"
    return Key.of(name, "answer", who, f"model:{slug(model)}")


def may_share(prompt: Prompt, mode: CacheMode | None) -> bool:
    """Whether an answer may come from, or go to, the cache at all.

    Only where the caller expects the same answer twice (temperature 0) or asked for it; never when bypassed; and never
    for media behind an address unless asked, since what is there may change.
    """
    if mode is CacheMode.BYPASS:
        return False
    if mode is not None:
        return True
    linked = any(isinstance(part, FileRef) for message in prompt.messages for part in message.parts)
    return prompt.temperature == 0 and not linked


def may_keep(finish: Finish) -> bool:
    """Only whole answers: never one that was cut off, blocked or ended oddly."""
    return finish in (Finish.STOP, Finish.TOOL_CALLS)


def _as_named(text: str) -> str:
    """A pattern of topics in the letters that their names are kept in, percent-encoding as it is."""
    if not text.startswith("topic:"):
        return text
    parts = _ESCAPE.split(text)  # every second one is an escape
    folded = [it.upper() if at % 2 else normalize("NFC", it).casefold() for at, it in enumerate(parts)]
    return " ".join("".join(folded).split())


_ESCAPE = re.compile("(%[0-9A-Fa-f]{2})")


def parse_pattern(pattern: str) -> Invalidation:
    """A pattern as people write it: ``*``, ``topic:*``, ``topic:black holes``, ``topic:black*``.

    A whole family (``*``, ``kind:*``, ``kind:subject:*``) is a tag, hence taken back in one step; what holds no glob
    character is a tag or a name; only other patterns need a look at every name of their kind.
    """
    text = pattern.strip()
    if not text or len(text) > 500 or not text.isprintable():
        raise InvalidRequest("write a pattern such as topic:* or topic:photosynthesis", param="pattern")
    text = quote(_as_named(text), safe=":*?[]~!%-._")
    stem = text.removesuffix(":*")
    if not _GLOB & set(stem):
        return Invalidation("tag", stem)
    return Invalidation("tag", ALL) if text == ALL else Invalidation("glob", text)


class Generations:
    """Which tags were taken back, and when: the arithmetic that every layer repeats.

    Bounded: when too many tags are remembered, the oldest half is forgotten and everything born before the newest of
    those counts as taken back. Losing memory loses cache, never truth.
    """

    def __init__(self, start: int = 1, most: int = MOST_TAGS) -> None:
        self.now = start  # the newest generation
        self._floor = 0  # whatever was born before is taken back
        self._tags: OrderedDict[str, int] = OrderedDict()  # oldest first
        self._most = most

    def take(self, tag: str) -> int:
        """Take back a tag; returns the new generation."""
        self.learn(tag, self.now + 1)
        return self.now

    def learn(self, tag: str, generation: int) -> None:
        """Note that a tag was taken back, here or elsewhere."""
        self.now = max(self.now, generation)
        self._tags.pop(tag, None)
        self._tags[tag] = generation
        if len(self._tags) > self._most:
            for _ in range(self._most // 2):
                self._floor = max(self._floor, self._tags.popitem(last=False)[1])

    def forget(self, generation: int) -> None:
        """Nothing is known of what happened before: whatever was born before is taken back."""
        self.now = max(self.now, generation)
        self._floor = max(self._floor, generation)
        self._tags.clear()

    def valid(self, tags: Iterable[str], born: int) -> bool:
        if born < self._floor:
            return False
        taken = self._tags
        return not taken or all(taken.get(tag, 0) <= born for tag in tags)


# -- entries as bytes ------------------------------------------------------------------------------------------

_MAGIC = b"kn%d" % SCHEMA
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(CacheEntry).decode


def pack(entry: CacheEntry) -> bytes:
    """An entry for a shared store: the schema, whether it is compressed, a checksum, the rest."""
    raw = _encode(entry)
    mark = b"r"
    if len(raw) >= COMPRESS_FROM:
        small = zlib.compress(raw, 1)
        if len(small) < 0.9 * len(raw):
            raw, mark = small, b"z"
    return _MAGIC + mark + zlib.crc32(raw).to_bytes(4, "big") + raw


def unpack(data: bytes) -> CacheEntry | None:
    """An entry again; None for anything that this version did not write, whatever is wrong with it."""
    head = len(_MAGIC)
    mark, check, raw = data[head : head + 1], data[head + 1 : head + 5], data[head + 5 :]
    if data[:head] != _MAGIC or zlib.crc32(raw).to_bytes(4, "big") != check:
        return None
    try:
        if mark == b"z":
            unpacker = zlib.decompressobj()
            raw = unpacker.decompress(raw, LARGEST)
            if unpacker.unconsumed_tail:
                return None
        return _decode(raw)
    except (zlib.error, msgspec.MsgspecError):
        return None
