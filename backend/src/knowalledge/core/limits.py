"""What is left of a limit."""

from msgspec import Struct


class Allowance(Struct, frozen=True):
    """What is left of one window of the target that answered, for the RateLimit headers."""

    name: str
    limit: int
    remaining: int
    window_s: int
    resets_s: int
    unit: str = "requests"
