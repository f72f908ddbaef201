"""How many tokens a request will take: guessed before, corrected by every answer.

Input: characters are weighed by class, because tokenizers spend about one token on four or five Latin letters
but nearly one on each CJK character, digit or bracket. A factor per kind of text, learnt from what the provider
counted, takes out the rest; small prompts have their own, for what is counted beside the text outweighs theirs.

Output: the quantile of what this model really produced for this kind of request. Reserving ``max_output_tokens``
instead would waste most of a quota, since few answers come near it. An answer that its caller cut off, or did not
stay for, says little of how long answers are, and teaches nothing.

Where several tenants ask, what one of them taught serves the others only until they have a few answers of their own:
nobody's odd prompts or short answers spoil another's estimates.
"""

import re
from bisect import bisect
from math import ceil, log

from msgspec import Struct

from knowalledge.gateway.domain.prompt import Blob, FileRef, Prompt
from knowalledge.quota.domain.window import TokenCost

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

# The quantile of learnt outputs that is held for a request, or their mean where that is more (many short answers and
# a few long ones), so that the sum over the requests in flight is rarely short; the excess comes back at completion.
OUTPUT_QUANTILE = 0.8
UNLEARNT_OUTPUT = 256  # tokens held for a kind of request never seen before
_STEP = 1.15  # ratio between the edges of the output histogram
_DECAY = 0.998  # per observation: about the last 500 count
_SANE_TOKENS = 10_000_000
_LONGEST_ANSWER = 131_072  # tokens; longer ones are learnt as this long
# No text is further from its weight than this: what is, was miscounted. (Small prompts are, by what is not text.)
_LEAST, _MOST = 0.1, 4.0
_SIZES = (64, 512, 4096)  # weights between which prompts learn together
_SEVERAL = "\0"  # no tenant's name
OWN_AFTER = 10  # answers of its own after which a tenant's estimates are its own
OWN_KEPT = 1024  # tenants x models x kinds; beyond it the one that was answered longest ago begins anew


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


class Estimate(Struct, frozen=True):
    """An estimate and what it was made from, so that the truth can correct it."""

    need: TokenCost
    model: str
    kind: str
    weight: float  # input before the learnt factor
    tenant: str = ""
    most: int | None = None  # output tokens that the caller allows


class _Learnt:
    """What answers taught about one model and one kind of request."""

    __slots__ = ("bins", "factors", "seen", "sum", "tenant", "total")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant  # the only one that has taught it, or ``_SEVERAL``
        self.factors = [1.0] * (len(_SIZES) + 1)
        self.seen = [0] * (len(_SIZES) + 1)
        self.bins: dict[int, float] = {}
        self.total = 0.0
        self.sum = 0.0

    def factor(self, weight: float) -> float:
        return self.factors[bisect(_SIZES, weight)]

    @property
    def answers(self) -> int:
        return sum(self.seen)

    def learn_input(self, weight: float, true: int) -> None:
        size = bisect(_SIZES, weight)
        self.seen[size] += 1
        if weight >= 1:
            # The first answers count most, then about the last 20.
            gain = 1 / min(20, self.seen[size])
            self.factors[size] += gain * (min(_MOST, max(_LEAST, true / weight)) - self.factors[size])

    def learn_output(self, tokens: int) -> None:
        tokens = min(tokens, _LONGEST_ANSWER)
        index = ceil(log(tokens, _STEP)) if tokens > 1 else 0
        if self.total > 1 / (1 - _DECAY):  # amortised: renormalise instead of decaying every bin each time
            self.bins = {key: value / 2 for key, value in self.bins.items() if value > 0.5}
            self.total = sum(self.bins.values())
            self.sum = sum(value * _STEP**key for key, value in self.bins.items())
        self.bins[index] = self.bins.get(index, 0.0) + 1.0
        self.total += 1.0
        self.sum += tokens

    def output(self) -> int:
        if not self.total:
            return UNLEARNT_OUTPUT
        goal = OUTPUT_QUANTILE * self.total
        quantile = 0.0
        for index in sorted(self.bins):
            goal -= self.bins[index]
            if goal <= 0:
                quantile = _STEP**index
                break
        return ceil(max(quantile, self.sum / self.total))


class Estimator:
    """Guesses needs and learns from answers; one per replica, bounded by models x kinds and ``OWN_KEPT``."""

    def __init__(self) -> None:
        self._learnt: dict[tuple[str, str], _Learnt] = {}
        self._own: dict[tuple[str, str, str], _Learnt] = {}

    def guess(self, model: str, prompt: Prompt, tenant: str = "") -> Estimate:
        """What this prompt will take of ``model``."""
        weight = sum(map(weigh, prompt.texts())) + _MESSAGE_TOKENS * len(prompt.messages)
        kind = kind_of(prompt)
        if kind == "media":
            weight += _IMAGE_TOKENS * sum(
                isinstance(part, Blob | FileRef) for message in prompt.messages for part in message.parts
            )
        learnt = self._taught(model, kind, tenant)
        factor = learnt.factor(weight) if learnt else 1.0
        output = learnt.output() if learnt else UNLEARNT_OUTPUT
        most = prompt.max_output_tokens
        if most is not None:
            output = min(output, most)
        return Estimate(TokenCost(max(1, ceil(weight * factor)), output), model, kind, weight, tenant, most)

    def tokens(self, guess: Estimate, text: str) -> int:
        """Output tokens in ``text``, for answers whose provider did not count them."""
        weight = weigh(text)
        learnt = self._taught(guess.model, guess.kind, guess.tenant)
        return ceil(weight * (learnt.factor(weight) if learnt else 1.0))

    def learn(self, guess: Estimate, true: TokenCost, whole: bool = True) -> None:
        """Correct the next guess by what the provider counted; not ``whole``: of a part of an answer."""
        if not (0 < true.input < _SANE_TOKENS and 0 <= true.output < _SANE_TOKENS):
            return
        key = guess.model, guess.kind
        learnt = self._learnt.get(key)
        if learnt is None:
            learnt = self._learnt[key] = _Learnt(guess.tenant)
        found = [learnt]
        if learnt.tenant != guess.tenant:
            learnt.tenant = _SEVERAL
            own = self._own.pop((*key, guess.tenant), None) or _Learnt(guess.tenant)
            self._own[*key, guess.tenant] = own  # the newest last
            if len(self._own) > OWN_KEPT:
                del self._own[next(iter(self._own))]
            found.append(own)
        for it in found:
            it.learn_input(guess.weight, true.input)
            # Cut off, it would have been at least so long.
            cut = not whole or (guess.most is not None and true.output >= guess.most)
            if not cut or (it.total and true.output > it.output()):
                it.learn_output(true.output)

    def _taught(self, model: str, kind: str, tenant: str) -> _Learnt | None:
        """What serves this tenant: its own answers, or everybody's while it has few."""
        own = self._own.get((model, kind, tenant)) if self._own else None
        return own if own is not None and own.answers >= OWN_AFTER else self._learnt.get((model, kind))
