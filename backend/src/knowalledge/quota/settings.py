"""Settings of the queue in front of each quota."""

from collections.abc import Mapping
from dataclasses import dataclass

from knowalledge.core.context import Priority
from knowalledge.core.parsers import duration, duration_or_zero, fractions, level, non_negative
from knowalledge.core.settings import setting


@dataclass(frozen=True)
class QueueSettings:
    """``queue.*``"""

    capacity: int = setting(non_negative, 100, "The most requests that wait for one target's quota.")
    timeout: float = setting(duration_or_zero, 30.0, "The longest time that a request waits for quota.")
    aging: float = setting(
        duration,
        15.0,
        "A lower priority that waited this long gets at least one grant in twenty.",
    )
    holdback: Mapping[Priority, float] = setting(
        fractions,
        {Priority.LOW: 0.998},
        "The fraction of each limit that a priority may use, evenly paced; higher priorities keep the rest.",
    )
    max_level_anonymous: Priority = setting(
        level, Priority.HIGH, "The highest priority that an anonymous caller may claim."
    )
