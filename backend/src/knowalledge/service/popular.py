"""Popular questions are kept warm: answered anew before their answer ends, with quota that nobody else needs."""

from collections.abc import Callable
from heapq import nlargest

import msgspec

from knowalledge.domain.errors import KnowalledgeError
from knowalledge.domain.model import Priority
from knowalledge.domain.ports import Clock, Popularity
from knowalledge.domain.topics import Query
from knowalledge.service.topics import Asker, Topics

# Requests, old ones counting less, after which a question is popular.
POPULAR_FROM = 10.0
# After this long a request counts half.
HALF_LIFE_S = 3600.0
# Questions whose popularity is known.
MOST_KNOWN = 1000
# A popular answer is made anew when this share of its life is over.
DUE = 0.8
# Questions that a worker makes anew in one round.
A_ROUND = 4
# Questions that it reports in one round, the most asked: a flood of others costs the shared store nothing.
A_REPORT = 500
# Different questions that a worker counts between two rounds; beyond, only those that it counts already.
MOST_COUNTED = 10_000

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Query).decode


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
        self._due_s = DUE * life_s
        self._spare = spare
        self._new_id = new_id
        self._counts: dict[Query, float] = {}
        self.known: tuple[Query, ...] = ()  # as of the last round, the most popular first

    def asked(self, question: Query) -> None:
        """Somebody asked."""
        if question in self._counts or len(self._counts) < MOST_COUNTED:
            self._counts[question] = self._counts.get(question, 0.0) + 1.0

    def round(self) -> int:
        """Tell the others what was asked here, and make anew what is due; returns how many were."""
        counts, self._counts = self._counts, {}
        most = nlargest(A_REPORT, counts.items(), key=lambda it: it[1])
        found = self._popularity.count(
            {_encode(question).decode(): count for question, count in most}, POPULAR_FROM
        )
        self.known = tuple(question for name in found if (question := _read(name)) is not None)
        made = 0
        for question in self.known:
            if made == A_ROUND:
                break
            if self._due(question) and self._spare():
                made += self._refresh(question)
        return made

    def _due(self, question: Query) -> bool:
        made_at = self._topics.made_at(question)
        return made_at is None or self._clock.now() - made_at >= self._due_s

    def _refresh(self, question: Query) -> bool:
        try:
            return self._topics.refresh(question, Asker(self._new_id(), priority=Priority.LOW), self._due_s)
        except KnowalledgeError:
            return False  # it stays due, and the next round tries again


def _read(name: str) -> Query | None:
    """A question by its name; None for one of another version."""
    try:
        return _decode(name)
    except msgspec.MsgspecError:
        return None
