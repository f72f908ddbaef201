"""A limit that the provider does not publish, learnt from its answers: additive increase, multiplicative decrease.

    start    until the provider rejects for the first time, requests go at ``CLIMB_FACTOR`` times the pace
    probe    once in ``PROBE_S``, when the window is full, the limit is raised by one, so that exactly one request more
             goes. If it and those after it are accepted for ``VERIFY_S``, by two more, by four, ... until the provider
             rejects. A window that is not full, because an even pace holds it back, would teach nothing.
    reject   of a step: back to what the window counts then, without the rejected request, and never to less than was
             accepted before the step. Any other: the provider's limit has moved down, or a request was late on its
             way. The limit is cut to what the window counts; if such rejections go on, each cuts a tenth more.
             (Halving, as TCP does, would throw away what is known.)

Requests that were under way when the limit was cut teach nothing about the new one.

The price of noticing that the provider's limit has moved up is one rejected call for each probe, since only a
rejection says that it has not: one in 55 s, 2.7% of 40 calls a minute. Probes more often would cost more than 3%; more
seldom, a higher limit would stay unused for longer than a minute. So a higher limit is noticed after half of
``PROBE_S`` on average, and a climb to four times as much then takes about 15 s.

Plain arithmetic on microseconds; ``scripts/_ledger.lua`` repeats it.
"""

SECOND = 1_000_000
PROBE_S = 55
# The window is a little longer than the provider's, so a probe may find a place there that has just come free; then one
# of the next requests is rejected. At 40 a minute and more, two of them are sent within this time.
VERIFY_S = 3
STEP_S = 1  # while climbing; by then a step that was too far has been rejected
REPEAT_S = 20  # a cut this soon after another means that the provider's limit has moved down
CUT_FACTOR = 0.9
CLIMB_FACTOR = 6.0  # of the pace while steps are taken; without it each step would take a whole window
LARGEST_LIMIT = 1_000_000


class Ceiling:
    """The learnt limit of one window."""

    __slots__ = ("cut_at", "limit", "probe_at", "step")

    def __init__(self, first: int) -> None:
        self.limit = first
        self.step = 1  # of the next probe; 0: one, and the last cut was not that of a step
        self.probe_at = 0  # moment of the next probe
        self.cut_at = 0  # moment of the last cut; 0: none yet

    @property
    def climbing(self) -> bool:
        return self.step > 1 or self.cut_at == 0

    def probe(self, now: int) -> bool:
        """A request does not fit into the window: raise the limit if a probe is due; whether it was raised."""
        if now < self.probe_at or self.limit >= LARGEST_LIMIT:
            return False
        self.probe_at = now + (STEP_S if self.step > 1 else VERIFY_S) * SECOND
        step = max(1, self.step)
        self.limit += step
        self.step = 2 * step
        return True

    def reject(self, now: int, granted_at: int, used: int) -> None:
        """The provider rejected a request granted at ``granted_at``; without it the window counts ``used``."""
        limit = min(self.limit, used)
        if self.step > 1:
            limit = max(limit, self.limit - self.step // 2)
            self.step, self.cut_at = 1, now
        elif granted_at >= self.cut_at:
            if self.step == 0 and now - self.cut_at < REPEAT_S * SECOND:
                limit = int(limit * CUT_FACTOR)
            self.step, self.cut_at = 0, now
        self.limit = max(1, limit)
        self.probe_at = now + PROBE_S * SECOND

    def adopt(self, now: int, limit: int) -> None:
        """Take over a limit that was learnt elsewhere."""
        if limit != self.limit:
            self.limit = max(1, limit)
            self.step, self.cut_at, self.probe_at = 1, now, now + PROBE_S * SECOND

    def set_back(self, by: int) -> None:
        """The clock was set back by so many microseconds."""
        self.probe_at -= by
        self.cut_at = max(1, self.cut_at - by) if self.cut_at else 0
