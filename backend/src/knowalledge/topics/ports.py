"""What the topics service needs from outside, as Protocols."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct


class Rest(Struct, frozen=True):
    """How long something that failed is left alone, and how long ago that began, in seconds."""

    length_s: float
    age_s: float

    @property
    def over(self) -> bool:
        return self.age_s >= self.length_s


class Popularity(Protocol):
    """Counts of what is asked for, over all replicas that share a store; old requests count ever less.

    And the rests of what failed: a bounded number, of which those are lost first that would be forgotten first.
    """

    def count(self, asked: Mapping[str, float], least: float) -> tuple[str, ...]:
        """Add counts by name, and tell every name whose count is at least ``least``, the most popular first."""
        ...

    def rest(self, name: str, length_s: float, kept_s: float) -> None:
        """A rest begins now, in place of an earlier one; it is known for ``kept_s`` after its end."""
        ...

    def rests(self) -> Mapping[str, Rest]:
        """Every rest that is known, by name: those that are over too."""
        ...

    def forget(self, name: str) -> None:
        """Its rest, if it has one, is not known any more."""
        ...
