"""The quota of one process: the pure ledger under a real clock. Greenlets switch only at IO, so it needs no lock."""

from collections.abc import Mapping
from itertools import count

from knowalledge.domain.calendar import calendar_of
from knowalledge.domain.ports import Clock, Decision, Reservation
from knowalledge.domain.quota import SECOND, Ledger, Level, Need, Window, refuse_what_never_fits


class MemoryQuotaStore:
    """Implements ``QuotaStore`` in process; targets without windows are unlimited."""

    def __init__(self, windows: Mapping[str, tuple[Window, ...]], clock: Clock) -> None:
        self._ledgers = {target: Ledger(found) for target, found in windows.items()}
        self._clock = clock
        self._ids = count(1)

    def reserve(self, target: str, need: Need) -> Decision:
        ledger = self._ledgers[target]
        refuse_what_never_fits(target, ledger.windows, need)
        now = self._now()
        days, ends = calendar_of(ledger.windows, now)
        verdict = ledger.reserve(now, days, ends, ledger.cap(need))
        levels = ledger.levels(now, days, ends)
        if verdict.entry is None:
            return Decision(None, verdict.wait_s, verdict.window, levels)
        return Decision(Reservation(target, str(next(self._ids)), verdict.entry), levels=levels)

    def settle(self, reservation: Reservation, true: Need) -> None:
        ledger = self._ledgers[reservation.target]
        now = self._now()
        ledger.settle(now, calendar_of(ledger.windows, now)[0], reservation.entry, true)

    def release(self, reservation: Reservation) -> None:
        ledger = self._ledgers[reservation.target]
        now = self._now()
        ledger.release(now, calendar_of(ledger.windows, now)[0], reservation.entry)

    def close_until(self, target: str, seconds: float, window: str) -> None:
        self._ledgers[target].close_until(self._now() + int(seconds * SECOND), window)

    def levels(self, target: str) -> tuple[Level, ...]:
        ledger = self._ledgers[target]
        now = self._now()
        return ledger.levels(now, *calendar_of(ledger.windows, now))

    def _now(self) -> int:
        return int(self._clock.now() * SECOND)
