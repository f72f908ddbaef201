"""The quota of all replicas: the ledger in Redis, one atomic script a step. See ``scripts/_ledger.lua``."""

from collections.abc import Callable, Mapping
from itertools import count

from msgspec import Struct

from knowalledge.adapters.redis.script import Executes, Script
from knowalledge.domain.calendar import calendar_of
from knowalledge.domain.ports import Clock, Decision, Reservation
from knowalledge.domain.quota import (
    BUCKETS,
    LAG,
    SECOND,
    Count,
    Entry,
    Level,
    Need,
    Window,
    cap,
    refuse_what_never_fits,
)

_RESERVE = Script("reserve", "_ledger")
_FINISH = Script("finish", "_ledger")
_LEVELS = Script("levels", "_ledger")
_GATE = Script("gate", "_ledger")
_SIZE = BUCKETS + 1 + LAG


class _Target(Struct, frozen=True):
    windows: tuple[Window, ...]
    keys: tuple[bytes, ...]
    flat: tuple[int, ...]  # the windows as the scripts take them; calendar ones get their day at each call
    calendar: bool


class RedisQuotaStore:
    """Implements ``QuotaStore`` for every replica that names the same Redis."""

    def __init__(
        self,
        client: Executes,
        windows: Mapping[str, tuple[Window, ...]],
        clock: Clock,
        replica: str,
        moment: Callable[[], str] = lambda: "",
    ) -> None:
        """``replica`` names this process; ``moment`` is for tests: microseconds in place of Redis' own clock."""
        self._client = client
        self._clock = clock
        self._replica = replica
        self._moment = moment
        self._ids = count(1)
        self._targets = {name: self._target(name, found) for name, found in windows.items()}

    def _target(self, name: str, windows: tuple[Window, ...]) -> _Target:
        # The hash tag keeps one target's keys on one Cluster node, where a script can reach them all.
        keys = tuple(f"kn:{{{name}}}:{part}".encode() for part in ("quota", "rings", f"live:{self._replica}"))
        flat: list[int] = []
        for index, window in enumerate(windows):
            flat += (
                window.limit,
                -(-window.span_s * SECOND // BUCKETS),
                _SIZE,
                index * _SIZE * 8,
                int(window.count is Count.REQUESTS),
                int(window.count in (Count.TOKENS, Count.INPUT)),
                int(window.count in (Count.TOKENS, Count.OUTPUT)),
                0,
                0,
            )
        return _Target(windows, keys, tuple(flat), any(window.calendar for window in windows))

    def _windows(self, target: _Target) -> tuple[int, ...]:
        if not target.calendar:
            return target.flat
        now = self._now()
        flat = list(target.flat)
        days, ends = calendar_of(target.windows, now)
        for index, (day, end) in enumerate(zip(days, ends, strict=True)):
            flat[index * 9 + 7] = day
            flat[index * 9 + 8] = now + int(end * SECOND) if day else 0
        return tuple(flat)

    def reserve(self, target: str, need: Need) -> Decision:
        it = self._targets[target]
        if not it.windows:
            return Decision(Reservation(target, "", Entry(need, ())))
        refuse_what_never_fits(target, it.windows, need)
        need = cap(it.windows, need)
        key = str(next(self._ids))
        granted, wait, worst, *rest = _RESERVE(
            self._client, it.keys, self._moment(), key, need.input, need.output, *self._windows(it)
        )
        levels = self._read(it, rest[1::3], rest[2::3])
        if granted:
            return Decision(Reservation(target, key, Entry(need, tuple(rest[0::3]))), levels=levels)
        window = worst.decode() if isinstance(worst, bytes) else it.windows[worst - 1].name
        return Decision(None, wait / SECOND, window, levels)

    def settle(self, reservation: Reservation, true: Need) -> None:
        self._finish(reservation, true, 1)

    def release(self, reservation: Reservation) -> None:
        self._finish(reservation, Need(0, 0), 0)

    def _finish(self, reservation: Reservation, true: Need, settled: int) -> None:
        it = self._targets[reservation.target]
        if not it.windows:
            return
        entry = reservation.entry
        _FINISH(
            self._client,
            it.keys,
            self._moment(),
            reservation.id,
            entry.need.input,
            entry.need.output,
            true.input,
            true.output,
            settled,
            len(entry.buckets),
            *entry.buckets,
            *self._windows(it),
        )

    def close_until(self, target: str, seconds: float, window: str) -> None:
        _GATE(self._client, self._targets[target].keys[:1], self._moment(), int(seconds * SECOND), window)

    def levels(self, target: str) -> tuple[Level, ...]:
        it = self._targets[target]
        if not it.windows:
            return ()
        reply = _LEVELS(self._client, it.keys[:2], self._moment(), *self._windows(it))
        return self._read(it, reply[0::2], reply[1::2])

    def _read(self, it: _Target, used: list[int], held: list[int]) -> tuple[Level, ...]:
        ends = calendar_of(it.windows, self._now())[1] if it.calendar else (0.0,) * len(it.windows)
        return tuple(
            Level(window, total, hold, end if window.calendar else float(window.span_s if total else 0))
            for window, total, hold, end in zip(it.windows, used, held, ends, strict=True)
        )

    def _now(self) -> int:
        return int(self._clock.now() * SECOND)
