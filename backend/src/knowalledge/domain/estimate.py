"""How many tokens a request will take: guessed before, corrected by every answer.

Input: characters are weighed by class, because tokenizers spend about one token on four or five Latin letters
but nearly one on each CJK character, digit or bracket. A factor per kind of text, learnt from what the provider
counted, takes out the rest.

Output: the quantile of what this model really produced for this kind of request. Reserving ``max_output_tokens``
instead would waste most of a quota, since few answers come near it.
"""

import re
from math import ceil, log

from msgspec import Struct

from knowalledge.domain.model import Blob, FileRef, Prompt
from knowalledge.domain.quota import Need

# Tokens per character, by class; measured against public tokenizers on prose, code, JSON and CJK text.
_LETTER, _DIGIT, _MARK, _SPACE = 0.205, 0.55, 0.62, 0.06
_LATIN, _CJK, _WIDE, _OTHER = 0.36, 0.72, 1.6, 0.5
_CLASSES = bytes(
    ord("d")
    if chr(byte).isdigit()
    else ord("s")
    if chr(byte).isspace()
    else ord("l")
    if chr(byte).isalpha()
    else ord("m")
    for byte in range(128)
).ljust(256, b"x")
_NOT_ASCII = re.compile(r"[^\x00-\x7f]+")
_CJK_RANGE = re.compile("[\u3000-\u9fff\uac00-\ud7af\uf900-\ufaff\uff00-\uffef]")
_LATIN_RANGE = re.compile("[\u0080-\u024f]")
_WIDE_RANGE = re.compile("[\U00010000-\U0010ffff]")
_MESSAGE_TOKENS = 4  # role and separators, per message
_IMAGE_TOKENS = 258  # one tile, ai.google.dev/gemini-api/docs/tokens

# The quantile of learnt outputs that is held for a request. Above the mean of any skewed distribution seen, so that
# the sum over the requests in flight is rarely short; the excess comes back at completion.
OUTPUT_QUANTILE = 0.8
UNLEARNT_OUTPUT = 256  # tokens held for a kind of request never seen before
_STEP = 1.15  # ratio between the edges of the output histogram
_DECAY = 0.998  # per observation: about the last 500 count
_SANE_TOKENS = 10_000_000


def weigh(text: str) -> float:
    """Tokens in ``text`` before any learnt correction."""
    if text.isascii():
        plain = text
        wide = 0.0
    else:
        plain = _NOT_ASCII.sub("", text)
        strange = "".join(_NOT_ASCII.findall(text))
        cjk = len(_CJK_RANGE.findall(strange))
        latin = len(_LATIN_RANGE.findall(strange))
        astral = len(_WIDE_RANGE.findall(strange))
        wide = cjk * _CJK + latin * _LATIN + astral * _WIDE + (len(strange) - cjk - latin - astral) * _OTHER
    kinds = plain.encode().translate(_CLASSES)
    return (
        wide
        + kinds.count(b"l") * _LETTER
        + kinds.count(b"d") * _DIGIT
        + kinds.count(b"m") * _MARK
        + kinds.count(b"s") * _SPACE
    )


def kind_of(prompt: Prompt) -> str:
    """The kind of request, for learning: a small closed set, so that memory stays bounded."""
    if prompt.tools:
        return "tools"
    if prompt.json_schema or prompt.json:
        return "json"
    if any(isinstance(part, Blob | FileRef) for message in prompt.messages for part in message.parts):
        return "media"
    return "chat" if len(prompt.messages) > 1 else "text"


class Guess(Struct, frozen=True):
    """An estimate and what it was made from, so that the truth can correct it."""

    need: Need
    model: str
    kind: str
    weight: float  # input before the learnt factor


class _Learnt:
    """What one model taught about one kind of request."""

    __slots__ = ("bins", "factor", "seen", "total")

    def __init__(self) -> None:
        self.factor = 1.0
        self.seen = 0
        self.bins: dict[int, float] = {}
        self.total = 0.0

    def learn_input(self, weight: float, true: int) -> None:
        if weight >= 1:
            # The first answers count most, then about the last 20.
            gain = 1 / min(20, self.seen + 1)
            self.factor += gain * (min(10.0, max(0.1, true / weight)) - self.factor)

    def learn_output(self, tokens: int) -> None:
        index = ceil(log(tokens, _STEP)) if tokens > 1 else 0
        if self.total > 1 / (1 - _DECAY):  # amortised: renormalise instead of decaying every bin each time
            self.bins = {key: value / 2 for key, value in self.bins.items() if value > 0.5}
            self.total = sum(self.bins.values())
        self.bins[index] = self.bins.get(index, 0.0) + 1.0
        self.total += 1.0
        self.seen += 1

    def output(self) -> int:
        goal = OUTPUT_QUANTILE * self.total
        for index in sorted(self.bins):
            goal -= self.bins[index]
            if goal <= 0:
                return ceil(_STEP**index)
        return UNLEARNT_OUTPUT


class Estimator:
    """Guesses needs and learns from answers; one per replica, bounded by models x kinds."""

    def __init__(self) -> None:
        self._learnt: dict[tuple[str, str], _Learnt] = {}

    def guess(self, model: str, prompt: Prompt) -> Guess:
        """What this prompt will take of ``model``."""
        weight = sum(map(weigh, prompt.texts())) + _MESSAGE_TOKENS * len(prompt.messages)
        kind = kind_of(prompt)
        if kind == "media":
            weight += _IMAGE_TOKENS * sum(
                isinstance(part, Blob | FileRef) for message in prompt.messages for part in message.parts
            )
        learnt = self._learnt.get((model, kind))
        factor = learnt.factor if learnt else 1.0
        output = learnt.output() if learnt else UNLEARNT_OUTPUT
        if prompt.max_output_tokens is not None:
            output = min(output, prompt.max_output_tokens)
        return Guess(Need(max(1, ceil(weight * factor)), output), model, kind, weight)

    def tokens(self, guess: Guess, text: str) -> int:
        """Output tokens in ``text``, for answers whose provider did not count them."""
        learnt = self._learnt.get((guess.model, guess.kind))
        return ceil(weigh(text) * (learnt.factor if learnt else 1.0))

    def learn(self, guess: Guess, true: Need) -> None:
        """Correct the next guess by what the provider counted."""
        if not (0 < true.input < _SANE_TOKENS and 0 <= true.output < _SANE_TOKENS):
            return
        learnt = self._learnt.setdefault((guess.model, guess.kind), _Learnt())
        learnt.learn_input(guess.weight, true.input)
        learnt.learn_output(true.output)
