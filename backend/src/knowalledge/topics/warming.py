"""Popular queries are kept warm: refreshed before their answer expires, with quota that nobody else needs."""

import math
from collections.abc import Callable
from heapq import nlargest

import msgspec

from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.core.context import Priority, RequestContext
from knowalledge.topics.domain import TopicQuery
from knowalledge.topics.ports import Backoff, Popularity
from knowalledge.topics.service import Topics

# A query is popular from this decayed count of requests on.
POPULARITY_THRESHOLD = 10.0
# After this long a request counts half.
HALF_LIFE_S = 3600.0
# Names whose popularity is tracked.
MAX_TRACKED = 1000
# A popular answer is refreshed at this share of its lifetime, or sooner if a refresh would otherwise end too late,
REFRESH_AT = 0.8
# but never before this share: an answer that takes as long as it lives would be refreshed without end.
EARLIEST_REFRESH_AT = 0.25
# Rounds in the lifetime of an answer: often enough for what was invalidated, seldom enough for a worker.
ROUNDS_PER_LIFE = 10
MIN_ROUND_S, MAX_ROUND_S = 0.5, 5.0
# Assumed duration of a refresh before one was measured here.
ASSUMED_REFRESH_S = 3.0
# A round that was faster than assumed lowers the assumption by this share of the difference.
LAG_DECAY = 0.1
# Refreshes, failed ones included, of one worker in one round.
REFRESHES_PER_ROUND = 4
# Backoff after a failed refresh, in all replicas; doubled by each further failure up to the longest.
FIRST_BACKOFF_S, MAX_BACKOFF_S = 30.0, 600.0
# These do not count as failures: there was no quota, no target may be called, or this replica shuts down.
NOT_A_FAILURE = (e.Limited, e.ProviderRateLimited, e.Unavailable)
# Names that a worker reports in one round, the most requested: a flood of others costs the shared store nothing.
MAX_REPORTED = 500
# Different queries that a worker counts between two rounds; beyond it only those already counted.
MAX_COUNTED = 10_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(TopicQuery).decode


class Warming:
    """Counts queries and, round by round, refreshes the popular ones."""

    def __init__(
        self,
        topics: Topics,
        popularity: Popularity,
        clock: Clock,
        life_s: float,
        has_spare_quota: Callable[[], bool],
        new_id: Callable[[], str],
    ) -> None:
        """``life_s``: the lifetime of an answer."""
        self._topics, self._popularity, self._clock = topics, popularity, clock
        self._life_s = life_s
        self.round_s = min(MAX_ROUND_S, max(MIN_ROUND_S, life_s / ROUNDS_PER_LIFE))  # between two rounds
        # From a round that finds an answer not yet due until the next round has refreshed it. Other refreshes run
        # before it, one after another, so this is measured.
        self._lag_s = self.round_s + ASSUMED_REFRESH_S
        self._round_began: float | None = None
        self._has_spare_quota = has_spare_quota
        self._new_id = new_id
        self._counts: dict[TopicQuery, float] = {}
        self.popular: tuple[TopicQuery, ...] = ()  # as of the last round, the most popular first

    def record_query(self, query: TopicQuery) -> None:
        """Count one request."""
        if query in self._counts or len(self._counts) < MAX_COUNTED:
            self._counts[query] = self._counts.get(query, 0.0) + 1.0

    def round(self) -> int:
        """Report the counts of this worker and refresh what is due; the number of answers refreshed."""
        previous, self._round_began = self._round_began, self._clock.monotonic()
        self._report()
        refreshed = attempts = 0
        backoffs = self._popularity.backoffs() if self.popular else {}
        for query in self.popular:
            if attempts == REFRESHES_PER_ROUND:
                break
            age_s, backoff = self._age_s(query), backoffs.get(_name(query))
            if backoff and age_s < backoff.age_s:
                self._popularity.forget(_name(query))  # another replica has refreshed it since
            is_due = age_s >= self._due_s and (backoff is None or backoff.is_over)
            if is_due and self._has_spare_quota():
                success = self._refresh(query)
                attempts += success is not None
                refreshed += success is True
        if refreshed and previous is not None:
            self._learn_lag(self._clock.monotonic() - previous)
        return refreshed

    def _report(self) -> None:
        counts, self._counts = self._counts, {}
        most = nlargest(MAX_REPORTED, counts.items(), key=lambda it: it[1])
        names = self._popularity.count({_name(query): count for query, count in most}, POPULARITY_THRESHOLD)
        self.popular = tuple(query for name in names if (query := _query(name)) is not None)

    @property
    def _due_s(self) -> float:
        """The age from which an answer is refreshed, in seconds."""
        earliest = EARLIEST_REFRESH_AT * self._life_s
        return max(earliest, min(REFRESH_AT * self._life_s, self._life_s - self._lag_s))

    def _learn_lag(self, lag_s: float) -> None:
        """A longer lag is adopted at once: too late costs a caller the wait, too early only spare quota."""
        difference = lag_s - self._lag_s
        self._lag_s += difference if difference > 0 else LAG_DECAY * difference

    def _age_s(self, query: TopicQuery) -> float:
        made_at = self._topics.made_at(query)
        return math.inf if made_at is None else self._clock.now() - made_at

    def _refresh(self, query: TopicQuery) -> bool | None:
        """Whether the refresh succeeded; None if it was not attempted, or may not count as a failure."""
        name = _name(query)
        # Read again: the refreshes before it in this round took their time.
        backoff = self._popularity.backoffs().get(name)
        if backoff and not backoff.is_over:
            return None
        context = RequestContext(self._new_id(), priority=Priority.LOW)
        try:
            if not self._topics.refresh(query, context, self._due_s):
                return None
            failed = self._age_s(query) >= self._due_s  # a fallback model's answer is not stored
        except NOT_A_FAILURE:
            return None
        except e.KnowalledgeError:
            failed = True
        if failed:
            self._popularity.back_off(name, next_backoff_s(backoff), MAX_BACKOFF_S)
        elif backoff:
            self._popularity.forget(name)
        return not failed


def next_backoff_s(last: Backoff | None) -> float:
    """The length of the backoff after another failure, in seconds."""
    return FIRST_BACKOFF_S if last is None else min(MAX_BACKOFF_S, 2 * last.length_s)


def _name(query: TopicQuery) -> str:
    return _encode(query).decode()


def _query(name: str) -> TopicQuery | None:
    """The query of a name; None for a name of another version."""
    try:
        return _decode(name)
    except msgspec.MsgspecError:
        return None
