"""What the topics service needs from outside, as Protocols."""

from collections.abc import Mapping
from typing import Protocol

from msgspec import Struct


class Backoff(Struct, frozen=True):
    """A pause after a failed refresh: its length, and the time since it began, in seconds."""

    length_s: float
    age_s: float

    @property
    def is_over(self) -> bool:
        return self.age_s >= self.length_s


class Popularity(Protocol):
    """Request counts with exponential decay, and the backoffs of failed refreshes, shared by the replicas of a store.

    Both are bounded: the least popular names and the backoffs that would expire first are dropped.
    """

    def count(self, requests: Mapping[str, float], threshold: float) -> tuple[str, ...]:
        """Add requests by name; every name whose decayed count is at least ``threshold``, the most popular first."""
        ...

    def back_off(self, name: str, length_s: float, retention_s: float) -> None:
        """Begin a backoff now, in place of an earlier one; it is remembered for ``retention_s`` after its end."""
        ...

    def backoffs(self) -> Mapping[str, Backoff]:
        """Every remembered backoff by name, those that are over included."""
        ...

    def forget(self, name: str) -> None:
        """Remove the name's backoff, if there is one."""
        ...
