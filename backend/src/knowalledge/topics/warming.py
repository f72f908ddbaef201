"""Popular questions are kept warm: answered anew before their answer ends, with quota that nobody else needs."""

import math
from collections.abc import Callable
from heapq import nlargest

import msgspec

from knowalledge.core import errors as e
from knowalledge.core.clock import Clock
from knowalledge.core.context import Priority, RequestContext
from knowalledge.topics.domain import TopicQuery
from knowalledge.topics.ports import Popularity, Rest
from knowalledge.topics.service import Topics

# Requests, old ones counting less, after which a question is popular.
POPULAR_FROM = 10.0
# After this long a request counts half.
HALF_LIFE_S = 3600.0
# Questions whose popularity is known.
MOST_KNOWN = 1000
# A popular answer is made anew when this share of its life is over; sooner if it would otherwise come too late;
DUE = 0.8
# but not before this one, or an answer that takes as long as it lives would be made without end.
SOONEST = 0.25
# So many rounds in the life of an answer, neither too seldom for what was taken back nor too often for a worker.
ROUNDS = 10
SHORTEST_ROUND_S, LONGEST_ROUND_S = 0.5, 5.0
# Time that an answer is thought to take before one was made anew here.
ANSWER_S = 3.0
# Of what was known of that time, a round in which it took less forgets this share.
FORGETS = 0.1
# Questions that a worker makes anew, or fails to, in one round.
A_ROUND = 4
# What fails rests so long, in all replicas, and after each failure more twice as long, up to the longest.
FIRST_REST_S, LONGEST_REST_S = 30.0, 600.0
# No failure of a question: there was no quota for it, no target may be asked, or this replica ends.
NOT_ITS_FAULT = (e.Limited, e.ProviderRateLimited, e.Unavailable)
# Questions that it reports in one round, the most asked: a flood of others costs the shared store nothing.
A_REPORT = 500
# Different questions that a worker counts between two rounds; beyond, only those that it counts already.
MOST_COUNTED = 10_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(TopicQuery).decode


class Popular:
    """Counts what is asked and, round by round, keeps warm what is asked often."""

    def __init__(
        self,
        topics: Topics,
        popularity: Popularity,
        clock: Clock,
        life_s: float,
        spare: Callable[[], bool],
        new_id: Callable[[], str],
    ) -> None:
        """``spare`` says whether there is quota that nobody else needs now."""
        self._topics, self._popularity, self._clock = topics, popularity, clock
        self._life_s = life_s
        self.round_s = min(LONGEST_ROUND_S, max(SHORTEST_ROUND_S, life_s / ROUNDS))  # between two rounds
        # From a look that finds an answer not yet due to the moment at which the next round has made it anew. Others
        # are made before it, one after another, so this is measured and not computed.
        self._lag_s = self.round_s + ANSWER_S
        self._began: float | None = None
        self._spare = spare
        self._new_id = new_id
        self._counts: dict[TopicQuery, float] = {}
        self.known: tuple[TopicQuery, ...] = ()  # as of the last round, the most popular first

    def asked(self, question: TopicQuery) -> None:
        """Somebody asked."""
        if question in self._counts or len(self._counts) < MOST_COUNTED:
            self._counts[question] = self._counts.get(question, 0.0) + 1.0

    def round(self) -> int:
        """Tell the others what was asked here, and make anew what is due; returns how many were."""
        before, self._began = self._began, self._clock.monotonic()
        counts, self._counts = self._counts, {}
        most = nlargest(A_REPORT, counts.items(), key=lambda it: it[1])
        found = self._popularity.count({_name(question): count for question, count in most}, POPULAR_FROM)
        self.known = tuple(question for name in found if (question := _read(name)) is not None)
        made = tried = 0
        rests = self._popularity.rests() if self.known else {}
        for question in self.known:
            if tried == A_ROUND:
                break
            age_s, rest = self._age_s(question), rests.get(_name(question))
            if rest and age_s < rest.age_s:
                self._popularity.forget(_name(question))  # somebody has had it made since
            if age_s >= self._due_s and (rest is None or rest.over) and self._spare():
                outcome = self._refresh(question)
                tried += outcome is not None
                made += outcome is True
        if made and before is not None:
            self._learn(self._clock.monotonic() - before)
        return made

    @property
    def _due_s(self) -> float:
        """The age from which on an answer is made anew, in seconds."""
        return max(SOONEST * self._life_s, min(DUE * self._life_s, self._life_s - self._lag_s))

    def _learn(self, lag_s: float) -> None:
        """What takes longer is believed at once: too late costs a caller the wait, too soon a little spare quota."""
        more = lag_s - self._lag_s
        self._lag_s += more if more > 0 else FORGETS * more

    def _age_s(self, question: TopicQuery) -> float:
        made_at = self._topics.made_at(question)
        return math.inf if made_at is None else self._clock.now() - made_at

    def _refresh(self, question: TopicQuery) -> bool | None:
        """Whether it was made anew; None if it need not, or may not, be tried now."""
        name = _name(question)
        # As of now: what was made before it in this round took its time.
        rest = self._popularity.rests().get(name)
        if rest and not rest.over:
            return None
        context = RequestContext(self._new_id(), priority=Priority.LOW)
        try:
            if not self._topics.refresh(question, context, self._due_s):
                return None
            failed = self._age_s(question) >= self._due_s  # a fallback's answer is not kept
        except NOT_ITS_FAULT:
            return None
        except e.KnowalledgeError:
            failed = True
        if failed:
            self._popularity.rest(name, longer(rest), LONGEST_REST_S)
        elif rest:
            self._popularity.forget(name)
        return not failed


def longer(last: Rest | None) -> float:
    """How long a question that has failed again rests after its last rest, in seconds."""
    return FIRST_REST_S if last is None else min(LONGEST_REST_S, 2 * last.length_s)


def _name(question: TopicQuery) -> str:
    return _encode(question).decode()


def _read(name: str) -> TopicQuery | None:
    """A question by its name; None for one of another version."""
    try:
        return _decode(name)
    except msgspec.MsgspecError:
        return None
