"""The simulator's tokenizer, texts of a given number of tokens, and embeddings."""

import re
from functools import lru_cache
from random import Random
from zlib import crc32

# A token: up to six letters, up to three digits, or one other character that is not a space.
_TOKEN = re.compile(r"[A-Za-z\u0080-\u024f]{1,6}|[0-9]{1,3}|\S")
_MARKER = re.compile(r"\[\[out=([0-9]{1,7})\]\]")
# Each word is one token, and the sentence says what it is to whoever reads it.
_SENTENCE = (
    "this text is canned it comes from a fake model that runs in the demo and knows no facts so do not "
    "read it as a real answer it only shows how long one takes and what it costs"
)
_WORDS = _SENTENCE.split()
_BLOCK = 4096


def _block() -> tuple[str, list[int]]:
    """A text of ``_BLOCK`` tokens, and where each token ends."""
    pieces, ends = [], [0]
    length = 0
    for index in range(_BLOCK):
        word = _WORDS[index % len(_WORDS)]
        piece = word + " "
        pieces.append(piece)
        length += len(piece)
        ends.append(length)
    return "".join(pieces), ends


_TEXT, _ENDS = _block()


@lru_cache(1024)
def count_tokens(text: str) -> int:
    """The number of tokens in ``text``."""
    return len(_TOKEN.findall(text))


def generate(tokens: int, start: int = 0) -> str:
    """A text of ``tokens`` tokens, which continues a text of ``start`` tokens."""
    start %= _BLOCK
    if start + tokens <= _BLOCK:
        return _TEXT[_ENDS[start] : _ENDS[start + tokens]]
    first = _BLOCK - start
    blocks, rest = divmod(tokens - first, _BLOCK)
    return _TEXT[_ENDS[start] :] + _TEXT * blocks + _TEXT[: _ENDS[rest]]


def slice_tokens(text: str, start: int, tokens: int) -> str:
    """``tokens`` tokens of ``text``, from index ``start``."""
    ends = [0, *(match.end() for match in _TOKEN.finditer(text))]
    return text[ends[min(start, len(ends) - 1)] : ends[min(start + tokens, len(ends) - 1)]]


def marked_length(text: str) -> int | None:
    """The number of output tokens that a prompt requests by ``[[out=N]]``."""
    match = _MARKER.search(text)
    return int(match[1]) if match else None


@lru_cache(256)
def vector(text: str, dimensions: int) -> tuple[float, ...]:
    """A unit vector that depends on the text only."""
    random = Random(crc32(text.encode(errors="replace")))
    values = [random.gauss(0, 1) for _ in range(dimensions)]
    norm = sum(value * value for value in values) ** 0.5
    return tuple(round(value / norm, 6) for value in values)
