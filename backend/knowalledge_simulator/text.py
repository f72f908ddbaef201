"""Tokens: how many a text has by this provider's own tokenizer, and texts of any number of them."""

import re
from functools import lru_cache
from random import Random
from zlib import crc32

# Up to six letters, up to three digits, or one of anything else that is not a space.
_TOKEN = re.compile(r"[A-Za-z\u0080-\u024f]{1,6}|[0-9]{1,3}|\S")
_OUT = re.compile(r"\[\[out=([0-9]{1,7})\]\]")
_SENTENCE = (
    "the answer is that a model reads what it was given and then writes one word after the other so "
    "long as there is more to say about it while each of them costs time and quota"
)
_WORDS = _SENTENCE.split()
_BLOCK = 4096


def _offsets() -> tuple[str, list[int]]:
    text, ends = [], [0]
    length = 0
    for index in range(_BLOCK):
        word = _WORDS[index % len(_WORDS)]
        piece = word + " "
        text.append(piece)
        length += len(piece)
        ends.append(length)
    return "".join(text), ends


_TEXT, _ENDS = _offsets()


@lru_cache(1024)
def count(text: str) -> int:
    """Tokens in ``text``."""
    return len(_TOKEN.findall(text))


def say(tokens: int, start: int = 0) -> str:
    """A text of ``tokens`` tokens; ``start`` continues one where it was left."""
    start %= _BLOCK
    if start + tokens <= _BLOCK:
        return _TEXT[_ENDS[start] : _ENDS[start + tokens]]
    first = _BLOCK - start
    whole, rest = divmod(tokens - first, _BLOCK)
    return _TEXT[_ENDS[start] :] + _TEXT * whole + _TEXT[: _ENDS[rest]]


def part(said: str, start: int, tokens: int) -> str:
    """``tokens`` tokens of a given text, from the one numbered ``start``."""
    ends = [0, *(match.end() for match in _TOKEN.finditer(said))]
    return said[ends[min(start, len(ends) - 1)] : ends[min(start + tokens, len(ends) - 1)]]


def wanted(text: str) -> int | None:
    """The length that a prompt asks for by its marker."""
    match = _OUT.search(text)
    return int(match[1]) if match else None


@lru_cache(256)
def vector(text: str, dimensions: int) -> tuple[float, ...]:
    """A unit vector that is the same for the same text."""
    dice = Random(crc32(text.encode(errors="replace")))
    values = [dice.gauss(0, 1) for _ in range(dimensions)]
    norm = sum(value * value for value in values) ** 0.5
    return tuple(round(value / norm, 6) for value in values)
