"""What a request's trace records, and the W3C trace context that the request may come with.

Attributes hold names from the configuration, closed sets and numbers: never a prompt, an answer or a key.
"""

import re
from typing import Protocol

from msgspec import Struct

Attribute = str | int | float | bool | tuple[str, ...]
Attributes = dict[str, Attribute]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 0x01
# The ratio is taken of the low 56 bits of a trace's id, which the W3C asks to be random, so that all who see it agree.
RATIO_BITS = 56
_RANDOM = 1 << RATIO_BITS


class Parent(Struct, frozen=True):
    """The caller's span."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    sampled: bool


def parent_of(traceparent: str) -> Parent | None:
    """What a ``traceparent`` says (W3C Trace Context, section 3.2); None for one that is malformed.

    Of a later version than 00 what is known of 00 counts, and more fields may follow.
    """
    match = _TRACEPARENT.fullmatch(traceparent)
    if match is None:
        return None
    version, trace_id, span_id, flags, more = match.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def is_sampled(trace_id: int, share: float) -> bool:
    """Whether this share of all traces, 0 to 1, has this one in it."""
    return trace_id % _RANDOM < share * _RANDOM


class Trace(Protocol):
    """One request's trace. ``began`` is in seconds of ``Clock.monotonic``; a step ends when it is added.

    Steps may be added after the request has ended: others may wait for what it has started. Each capability makes
    the attributes of its own steps, and only if the trace is ``live``.
    """

    @property
    def live(self) -> bool:
        """Whether the request is traced; if not, steps are not worth making."""
        ...

    @property
    def id(self) -> str:
        """32 hex digits; empty for a request that is not traced."""
        ...

    def add_step(self, name: str, began: float, attributes: Attributes, error: str = "") -> None:
        """A step inside the gateway, failed if ``error`` is given: a code or the name of a class."""
        ...

    def add_call(self, name: str, began: float, target: str, attributes: Attributes, error: str = "") -> None:
        """A call of a target's provider; what the target is becomes part of the attributes."""
        ...

    def describe(self, attributes: Attributes, error: str, failed: bool) -> None:
        """Attributes of the request as a whole, and whether it failed by our fault or a provider's."""
        ...


class Untraced:
    """The trace of a request that is not traced."""

    __slots__ = ()

    live = False
    id = ""

    def add_step(self, *_: object, **__: object) -> None:
        """Nothing."""

    add_call = describe = add_step


UNTRACED: Trace = Untraced()


class RequestTrace(Trace, Protocol):
    """The trace of a request that this process serves."""

    def answered(self, route: str, status: int, request_id: str) -> None:
        """The status is known. ``route`` is the rule that matched, empty if none did."""
        ...

    def ended(self, error: str = "") -> None:
        """The last byte is out, or nobody takes it; ``error`` names what broke it off."""
        ...


class Tracer(Protocol):
    """Starts traces."""

    def begin(self, method: str, traceparent: str | None) -> RequestTrace | None:
        """The trace of a request that has just arrived; None if it is not one of those that are traced."""
        ...
