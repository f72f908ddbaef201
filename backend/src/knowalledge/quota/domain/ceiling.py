"""A ceiling that the provider does not publish, found from its answers: increase by probing, decrease by refusals.

    start    until the provider refuses for the first time, requests go at ``CLIMB`` times the ceiling's pace
    probe    once in ``PROBE_S``, when the window is full, the ceiling is raised by one, so that exactly one request
             more goes; if it and those after it are accepted for ``VERIFY_S``, by two more, by four, ... until the
             provider refuses. A window that is not full, because an even pace holds it back, would teach nothing.
    refusal  of a step: back to what the window counts then, without the refused request, and never to less than was
             accepted before the step. Any other: the limit has moved down, or a request was late on its way; the
             ceiling is cut to what the window counts, and if such refusals go on, each cuts a tenth more. (Halving,
             as TCP does, would throw away what is known.)

Requests that were on their way when the ceiling was cut teach nothing new about it.

The price of noticing that a limit has moved up is one refused call a probe, for only a refusal says that it has not:
one in 55 s, of 40 calls a minute 2.7%. More often, and 40 a minute would pay more than 3%; more seldom, and a higher
limit would stay unused for longer than a minute. So it is noticed after half of ``PROBE_S`` on average, and a climb to
four times as much then takes about 15 s.

Plain arithmetic on microseconds; ``scripts/_ledger.lua`` repeats it.
"""

SECOND = 1_000_000
PROBE_S = 55
# The window is a little longer than the provider's, so a probe may find a place that has just become free there; then
# one of the next requests is refused. Within this two more are sent, at 40 a minute and more.
VERIFY_S = 3
STEP_S = 1  # while climbing, a step that is too far has been refused by then
REPEAT_S = 20  # a cut this soon after another means that the limit has moved down
CUT = 0.9
CLIMB = 6.0  # while steps are taken the pace is this much faster, or they would take a window each
MOST = 1_000_000


class Ceiling:
    """What a window seems to allow."""

    __slots__ = ("cut", "limit", "probe", "step")

    def __init__(self, first: int) -> None:
        self.limit = first
        self.step = 1  # the next one; 0: one, and the last cut was no step's
        self.probe = 0  # the moment of it
        self.cut = 0  # the moment of the last cut

    @property
    def climbing(self) -> bool:
        return self.step > 1 or self.cut == 0

    def pressed(self, now: int) -> bool:
        """A request does not fit into the window. Whether the ceiling gives way."""
        if now < self.probe or self.limit >= MOST:
            return False
        self.probe = now + (STEP_S if self.step > 1 else VERIFY_S) * SECOND
        step = max(1, self.step)
        self.limit += step
        self.step = 2 * step
        return True

    def refused(self, now: int, granted: int, used: int) -> None:
        """The provider refused a request granted at ``granted``; without it the window counts ``used``."""
        limit = min(self.limit, used)
        if self.step > 1:
            limit = max(limit, self.limit - self.step // 2)
            self.step, self.cut = 1, now
        elif granted >= self.cut:
            if self.step == 0 and now - self.cut < REPEAT_S * SECOND:
                limit = int(limit * CUT)
            self.step, self.cut = 0, now
        self.limit = max(1, limit)
        self.probe = now + PROBE_S * SECOND

    def learnt(self, now: int, limit: int) -> None:
        """What another has found."""
        if limit != self.limit:
            self.limit = max(1, limit)
            self.step, self.cut, self.probe = 1, now, now + PROBE_S * SECOND
