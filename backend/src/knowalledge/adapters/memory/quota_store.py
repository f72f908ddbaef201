"""The quota of one process: the pure ledger under a real clock. Greenlets switch only at IO, so it needs no lock."""

from collections.abc import Mapping
from itertools import count

from knowalledge.domain.calendar import calendar_of
from knowalledge.domain.ports import Clock, Decision, Reservation
from knowalledge.domain.quota import SECOND, Ledger, Level, Need, Window, cap, refuse_what_never_fits


class MemoryQuotaStore:
    """Implements ``QuotaStore`` in process; targets without windows are unlimited."""

    def __init__(self, windows: Mapping[str, tuple[Window, ...]], clock: Clock) -> None:
        self._ledgers = {target: Ledger(found) for target, found in windows.items()}
        self._clock = clock
        self._ids = count(1)
        self._live: set[str] = set()  # a reservation ends once

    def reserve(self, target: str, need: Need) -> Decision:
        ledger = self._ledgers[target]
        refuse_what_never_fits(target, ledger.windows, need)
        now = self._now()
        days, ends = calendar_of(ledger.windows, now)
        verdict = ledger.reserve(now, days, ends, cap(ledger.windows, need))
        levels = ledger.levels(now, days, ends)
        if verdict.entry is None:
            return Decision(None, verdict.wait_s, verdict.window, levels)
        key = str(next(self._ids))
        self._live.add(key)
        return Decision(Reservation(target, key, verdict.entry), levels=levels)

    def settle(self, reservation: Reservation, true: Need) -> None:
        if not self._ends(reservation):
            return
        ledger = self._ledgers[reservation.target]
        now = self._now()
        ledger.settle(now, calendar_of(ledger.windows, now)[0], reservation.entry, true)

    def release(self, reservation: Reservation) -> None:
        if not self._ends(reservation):
            return
        ledger = self._ledgers[reservation.target]
        now = self._now()
        ledger.release(now, calendar_of(ledger.windows, now)[0], reservation.entry)

    def close_until(self, target: str, seconds: float, window: str) -> None:
        self._ledgers[target].close_until(self._now() + int(seconds * SECOND), window)

    def levels(self, target: str) -> tuple[Level, ...]:
        ledger = self._ledgers[target]
        now = self._now()
        return ledger.levels(now, *calendar_of(ledger.windows, now))

    def _ends(self, reservation: Reservation) -> bool:
        live = reservation.id in self._live
        self._live.discard(reservation.id)
        return live

    def _now(self) -> int:
        return int(self._clock.now() * SECOND)
