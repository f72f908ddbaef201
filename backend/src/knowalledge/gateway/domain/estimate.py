"""How many tokens a request will cost: estimated before the call, corrected by every answer.

Input: characters are weighed by class, because tokenizers spend about one token on four or five Latin letters, but
nearly one on each CJK character, digit or bracket. A factor per kind of text, learnt from what providers counted,
corrects the rest. Small prompts have a factor of their own, for what is counted beside their text outweighs it.

Output: a quantile of what this model produced for this kind of request. Reserving ``max_output_tokens`` instead would
waste most of a quota, since few answers come near it. An answer that was cut short says little of how long answers are
and teaches nothing.

Where several tenants call a model, one tenant's answers serve another only until that one has a few of its own, so
odd prompts and short answers of one tenant do not spoil the estimates of another.
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

# The quantile of learnt outputs that is reserved, or their mean where that is more (many short answers, a few long
# ones), so that the sum over the requests in flight is rarely too small; the excess comes back at completion.
OUTPUT_QUANTILE = 0.8
UNLEARNT_OUTPUT = 256  # tokens, for a kind of request that has no answer yet
_STEP = 1.15  # ratio between the edges of the output histogram
_DECAY = 0.998  # per observation: about the last 500 count
_SANE_TOKENS = 10_000_000
_MAX_OUTPUT = 131_072  # tokens; longer answers are learnt as this long
# The factors between weight and tokens that are believed; a provider that counts outside of them miscounted. (Small
# prompts reach them, by what is not text.)
_MIN_FACTOR, _MAX_FACTOR = 0.1, 4.0
_SIZES = (64, 512, 4096)  # weights between which prompts share a factor
_SEVERAL = "\0"  # no tenant's name
OWN_AFTER = 10  # answers after which a tenant has estimates of its own
OWN_KEPT = 1024  # tenants x models x kinds; beyond it the one answered longest ago is forgotten


def weigh(text: str) -> float:
    """Tokens in ``text`` before any learnt correction."""
    if text.isascii():
        plain = text
        wide = 0.0
    else:
        plain = _NOT_ASCII.sub("", text)
        rest = "".join(_NOT_ASCII.findall(text))
        cjk = len(_CJK_RANGE.findall(rest))
        latin = len(_LATIN_RANGE.findall(rest))
        astral = len(_WIDE_RANGE.findall(rest))
        wide = cjk * _CJK + latin * _LATIN + astral * _WIDE + (len(rest) - cjk - latin - astral) * _OTHER
    classes = plain.encode().translate(_CLASSES)
    return (
        wide
        + classes.count(b"l") * _LETTER
        + classes.count(b"d") * _DIGIT
        + classes.count(b"m") * _MARK
        + classes.count(b"s") * _SPACE
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
    """What a request is estimated to cost, and what that was made from, so that the actual cost can correct it."""

    cost: TokenCost
    model: str
    kind: str
    weight: float  # of the input, before the learnt factor
    tenant: str = ""
    max_output: int | None = None  # tokens, as the caller limits them


class _Learnt:
    """What answers taught about one model and one kind of request."""

    __slots__ = ("bins", "factors", "seen", "sum", "tenant", "total")

    def __init__(self, tenant: str) -> None:
        self.tenant = tenant  # the only one whose answers are in it, or ``_SEVERAL``
        self.factors = [1.0] * (len(_SIZES) + 1)
        self.seen = [0] * (len(_SIZES) + 1)
        self.bins: dict[
            int, float
        ] = {}  # decayed numbers of answers, by the power of ``_STEP`` that is their length
        self.total = 0.0  # of the bins
        self.sum = 0.0  # of the tokens in them

    def factor(self, weight: float) -> float:
        return self.factors[bisect(_SIZES, weight)]

    @property
    def answers(self) -> int:
        return sum(self.seen)

    def learn_input(self, weight: float, actual: int) -> None:
        size = bisect(_SIZES, weight)
        self.seen[size] += 1
        if weight >= 1:
            # The first answers count most, then about the last 20.
            gain = 1 / min(20, self.seen[size])
            factor = min(_MAX_FACTOR, max(_MIN_FACTOR, actual / weight))
            self.factors[size] += gain * (factor - self.factors[size])

    def learn_output(self, tokens: int) -> None:
        tokens = min(tokens, _MAX_OUTPUT)
        index = ceil(log(tokens, _STEP)) if tokens > 1 else 0
        if self.total > 1 / (
            1 - _DECAY
        ):  # amortised: halve now and then instead of decaying every bin each time
            self.bins = {key: value / 2 for key, value in self.bins.items() if value > 0.5}
            self.total = sum(self.bins.values())
            self.sum = sum(value * _STEP**key for key, value in self.bins.items())
        self.bins[index] = self.bins.get(index, 0.0) + 1.0
        self.total += 1.0
        self.sum += tokens

    def output(self) -> int:
        if not self.total:
            return UNLEARNT_OUTPUT
        rest = OUTPUT_QUANTILE * self.total
        quantile = 0.0
        for index in sorted(self.bins):
            rest -= self.bins[index]
            if rest <= 0:
                quantile = _STEP**index
                break
        return ceil(max(quantile, self.sum / self.total))


class Estimator:
    """Estimates costs and learns from answers. One per replica, bounded by models x kinds and ``OWN_KEPT``."""

    def __init__(self) -> None:
        self._learnt: dict[tuple[str, str], _Learnt] = {}
        self._own: dict[tuple[str, str, str], _Learnt] = {}  # the latest last

    def estimate(self, model: str, prompt: Prompt, tenant: str = "") -> Estimate:
        """What this prompt will cost of ``model``."""
        weight = sum(map(weigh, prompt.texts())) + _MESSAGE_TOKENS * len(prompt.messages)
        kind = kind_of(prompt)
        if kind == "media":
            weight += _IMAGE_TOKENS * sum(
                isinstance(part, Blob | FileRef) for message in prompt.messages for part in message.parts
            )
        learnt = self._lookup(model, kind, tenant)
        factor = learnt.factor(weight) if learnt else 1.0
        output = learnt.output() if learnt else UNLEARNT_OUTPUT
        max_output = prompt.max_output_tokens
        if max_output is not None:
            output = min(output, max_output)
        cost = TokenCost(max(1, ceil(weight * factor)), output)
        return Estimate(cost, model, kind, weight, tenant, max_output)

    def count_output(self, estimate: Estimate, text: str) -> int:
        """Output tokens in ``text``, for answers whose provider did not count them."""
        weight = weigh(text)
        learnt = self._lookup(estimate.model, estimate.kind, estimate.tenant)
        return ceil(weight * (learnt.factor(weight) if learnt else 1.0))

    def learn(self, estimate: Estimate, actual: TokenCost, complete: bool = True) -> None:
        """Correct later estimates by what the provider counted; not ``complete``: for a part of an answer."""
        if not (0 < actual.input < _SANE_TOKENS and 0 <= actual.output < _SANE_TOKENS):
            return
        key = estimate.model, estimate.kind
        learnt = self._learnt.get(key)
        if learnt is None:
            learnt = self._learnt[key] = _Learnt(estimate.tenant)
        taught = [learnt]
        if learnt.tenant != estimate.tenant:
            learnt.tenant = _SEVERAL
            own = self._own.pop((*key, estimate.tenant), None) or _Learnt(estimate.tenant)
            self._own[*key, estimate.tenant] = own
            if len(self._own) > OWN_KEPT:
                del self._own[next(iter(self._own))]
            taught.append(own)
        # An answer that was cut short would have been at least this long.
        cut = not complete or (estimate.max_output is not None and actual.output >= estimate.max_output)
        for each in taught:
            each.learn_input(estimate.weight, actual.input)
            if not cut or (each.total and actual.output > each.output()):
                each.learn_output(actual.output)

    def _lookup(self, model: str, kind: str, tenant: str) -> _Learnt | None:
        """The tenant's own answers, or those of all tenants while it has few."""
        own = self._own.get((model, kind, tenant)) if self._own else None
        return own if own is not None and own.answers >= OWN_AFTER else self._learnt.get((model, kind))
