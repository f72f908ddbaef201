"""A ceiling that the provider does not publish, found from its answers: increase by probing, decrease by refusals.

    probe    once in ``PROBE_S`` the ceiling is raised by one; if that is accepted for ``VERIFY_S``, by two more, by
             four, ... until the provider refuses
    refusal  says how much is accepted: what this window counts at that moment, without the refused request. The first
             one cuts the ceiling to exactly that; if refusals go on, the limit has moved down, and each cuts a tenth
             more. (Halving, as TCP does, would throw away what is known.)

Requests that were on their way when the ceiling was cut teach nothing new about it. One probe in 40 s costs one or two
refused calls a minute: the price of noticing within a minute that the limit has moved up.

Plain arithmetic on microseconds; ``scripts/_ledger.lua`` repeats it.
"""

SECOND = 1_000_000
PROBE_S = 40
VERIFY_S = 2  # a step that is too far has been refused by then
REPEAT_S = 20  # a cut this soon after another means that the limit has moved down
CUT = 0.9
CLIMB = 6.0  # while steps are taken the pace is this much faster, or they would take a window each
MOST = 1_000_000.0


class Ceiling:
    """What a window seems to allow."""

    __slots__ = ("cut", "limit", "probe", "step")

    def __init__(self, first: float) -> None:
        self.limit = first
        self.step = 1.0  # the next one
        self.probe = 0  # the moment of it
        self.cut = 0  # the moment of the last cut

    @property
    def climbing(self) -> bool:
        return self.step > 1

    def pressed(self, now: int) -> float:
        """A request does not fit. How much the ceiling gives."""
        if now < self.probe or self.limit >= MOST:
            return 0.0
        step = self.step
        self.limit += step
        self.step *= 2
        self.probe = now + VERIFY_S * SECOND
        return step

    def refused(self, now: int, granted: int, used: int) -> None:
        """The provider refused a request granted at ``granted``; without it the window counts ``used``."""
        if granted >= self.cut:
            again = self.cut > 0 and now - self.cut < REPEAT_S * SECOND
            self.limit = max(1.0, min(self.limit, used) * (CUT if again else 1.0))
            self.cut = now
        else:
            self.limit = max(1.0, min(self.limit, used))
        self.step = 1.0
        self.probe = now + PROBE_S * SECOND

    def learnt(self, limit: float) -> None:
        """What another has found."""
        self.limit = max(1.0, limit)
