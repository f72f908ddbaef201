"""Settings of the queue in front of each quota."""

from collections.abc import Mapping
from dataclasses import dataclass

from knowalledge.core.context import Priority
from knowalledge.core.parsers import duration, duration_or_zero, fractions, level, non_negative
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class QueueSettings:
    """``queue.*``"""

    capacity: int = setting(non_negative, 100, "Places in the waiting room of one quota.")
    timeout: float = setting(duration_or_zero, 30.0, "The longest wait for quota.")
    aging: float = setting(
        duration, 15.0, "A lower level that waited this long gets one grant in twenty, if it had no other."
    )
    holdback: Mapping[Priority, float] = setting(
        fractions,
        {Priority.LOW: 0.998},
        "The share of each limit that a level may use; it is also paced, so that the urgent always find room.",
    )
    max_level_anonymous: Priority = setting(
        level, Priority.HIGH, "The most urgent level of an anonymous caller."
    )
