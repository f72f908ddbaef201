"""What a request's trace is told, and the W3C trace context that it may come with.

A trace is told of each step when the step is over. Nothing in it can hold a prompt, an answer or a key: what may be
said are the arguments below, names from the configuration, closed sets and numbers.
"""

import re
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

if TYPE_CHECKING:  # these modules' values carry a trace
    from knowalledge.core.context import Priority
    from knowalledge.gateway.domain.answer import Finish, Usage
    from knowalledge.gateway.ports import Record
    from knowalledge.quota.domain.window import TokenCost

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII)
_SAMPLED = 0x01
# The ratio is taken of the low 56 bits of a trace's id, which the W3C asks to be random, so that all who see it agree.
_RANDOM = 2**56


class Parent(Struct, frozen=True):
    """The caller's span."""

    trace_id: str  # 32 hex digits
    span_id: str  # 16 hex digits
    sampled: bool


def parent_of(traceparent: str) -> Parent | None:
    """What a ``traceparent`` says (W3C Trace Context, section 3.2); None for one that is malformed.

    Of a later version than 00 what is known of 00 counts, and more fields may follow.
    """
    found = _TRACEPARENT.fullmatch(traceparent)
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == "ff" or (version == "00" and more) or not int(trace_id, 16) or not int(span_id, 16):
        return None
    return Parent(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def is_sampled(trace_id: int, share: float) -> bool:
    """Whether this share of all traces, 0 to 1, has this one in it."""
    return trace_id % _RANDOM < share * _RANDOM


class Trace(Protocol):
    """One request's trace. Moments are seconds of ``Clock.monotonic``; a step ends when it is told.

    Steps may be told after ``ended``: others may wait for what the request has started.
    """

    @property
    def live(self) -> bool:
        """Whether anybody listens; if not, nothing need be told."""
        ...

    @property
    def id(self) -> str:
        """32 hex digits; empty if nobody listens."""
        ...

    def looked(self, began: float, result: str, layer: str) -> None:
        """The caches were asked: ``result`` is hit, stale or miss; ``layer`` where it was found, or empty."""
        ...

    def waited(
        self,
        began: float,
        target: str,
        level: "Priority",
        position: int,
        waited_s: float,
        passed: tuple[str, ...] = (),
        degraded: bool = False,
        error: str = "",
    ) -> None:
        """Quota was asked for, and waited for in the room.

        ``position`` is the place it entered at, 0 if it did not; ``passed`` the targets that had no room, each with
        why; ``error`` the code of what ended it without a grant.
        """
        ...

    def tried(
        self,
        began: float,
        target: str,
        tier: int,
        reason: str,
        retry: int,
        outcome: str,
        *,
        operation: str = "chat",
        usage: "Usage | None" = None,
        finish: "Finish | None" = None,
        version: str = "",
        first_token: float = 0.0,
        quota_id: str = "",
        error: str = "",
    ) -> None:
        """A target was asked. ``reason`` is why it was chosen, ``retry`` 0 for the first try.

        ``operation`` is chat or embeddings.

        ``usage``, ``finish`` and ``version`` are the provider's own words; ``first_token`` is the moment of it, 0 if
        there was none; ``quota_id`` is what a 429 named.
        """
        ...

    def settled(
        self, began: float, target: str, ending: str, estimate: "TokenCost", true: "TokenCost | None" = None
    ) -> None:
        """A reservation ended: ``ending`` is settled, released or refused; ``true`` is what was charged in the end."""
        ...

    def told(self, record: "Record") -> None:
        """How the request ended, as the metrics and the log have it."""
        ...


class Untraced:
    """The trace of a request that is not traced: it listens to nothing."""

    __slots__ = ()

    live = False
    id = ""

    def looked(self, *_: object, **__: object) -> None:
        """Nothing."""

    waited = tried = settled = told = looked


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
