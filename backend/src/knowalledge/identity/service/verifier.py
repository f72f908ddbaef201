"""Who a key or token belongs to: from memory where it was checked before, else from the database.

A check is repeated when the directory's generation has changed, which every replica asks for twice a second, and at
latest after ``RECHECK_S``. While the database is away, what it has confirmed within the last hour still counts.
"""

from collections.abc import Callable
from hmac import compare_digest

from cachetools import TTLCache
from gevent.event import AsyncResult
from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.context import Principal
from knowalledge.core.errors import DatabaseUnavailable, Unauthenticated
from knowalledge.identity.domain import keys
from knowalledge.identity.domain.credentials import MAX_CREDENTIAL
from knowalledge.identity.domain.principals import KnownKey, principal_of
from knowalledge.identity.ports import Directory, Tokens

# While the database is away, a key counts for so long after it was last confirmed, in seconds.
GRACE_S = 3600.0
# A confirmation counts for so long, in seconds, if no other replica has told of a change.
RECHECK_S = 300.0
# Keys and tokens in memory.
MAX_KNOWN = 50_000
# After the database did not answer, it is left alone for so long, in seconds.
REST_S = 1.0
# How often the generation is read, in seconds: with its own time the whole stays below a second.
POLL_S = 0.4
_LOST = "the question to the database was lost"
_WRONG = "the key or token is unknown, expired or revoked"


class _Verified(Struct, frozen=True):
    """A confirmed credential."""

    principal: Principal
    generation: int  # of the directory when it was confirmed
    recheck_at: float  # by the monotonic clock
    expires_at: float  # by the wall clock


class Verifier:
    """Implements the check of every request. A warm one makes one digest and looks into one cache."""

    def __init__(
        self, directory: Directory, secret: Callable[[], bytes], tokens: Tokens | None, clock: Clock
    ) -> None:
        """``secret`` is ``auth.secret``; ``tokens``: None where only our own keys count."""
        self._directory = directory
        self._secret = secret
        self._tokens = tokens
        self._clock = clock
        self._verified: TTLCache[bytes, _Verified] = TTLCache(MAX_KNOWN, GRACE_S, timer=clock.monotonic)
        self._generation = 0
        self._rest_until = 0.0
        self._used: dict[str, float] = {}
        self._flights: dict[str, AsyncResult[KnownKey | None]] = {}
        self.database_up = True
        self.weights: dict[str, float] = {}  # of tenants, where they are not 1

    def verify(self, credential: str) -> Principal:
        """The caller. Raises ``Unauthenticated``, and ``DatabaseUnavailable`` where that alone could tell."""
        if len(credential) > MAX_CREDENTIAL:
            raise Unauthenticated(_WRONG)
        secret = self._secret()
        digest = keys.digest(secret, credential)
        try:  # half the price of `get`, which looks twice
            known: _Verified | None = self._verified[digest]
        except KeyError:
            known = None
        clock = self._clock
        now = clock.now()
        if known is not None:
            if known.expires_at <= now:
                raise Unauthenticated(_WRONG)
            if known.generation == self._generation and clock.monotonic() < known.recheck_at:
                if known.principal.key:
                    self._used[known.principal.key] = now
                return known.principal
        return self._confirm(secret, credential, digest, known, now)

    def _confirm(
        self, secret: bytes, credential: str, digest: bytes, known: _Verified | None, now: float
    ) -> Principal:
        key_id = keys.id_of(secret, credential)
        if key_id is None:
            return self._token(credential, digest)
        try:
            stored = self._ask(key_id)
        except DatabaseUnavailable:
            if known is not None:  # it was confirmed less than GRACE_S ago, else it would not be here
                return known.principal
            raise
        principal = principal_of(stored, now) if stored and compare_digest(stored.digest, digest) else None
        if stored is None or principal is None:
            self._verified.pop(digest, None)
            raise Unauthenticated(_WRONG)
        self._generation = stored.generation  # it may be newer than what was polled last
        expires_at = stored.key.expires_at
        self._keep(digest, principal, stored.generation, RECHECK_S, expires_at)
        self._used[key_id] = now
        return principal

    def _token(self, credential: str, digest: bytes) -> Principal:
        if self._tokens is None or credential.count(".") != 2:
            raise Unauthenticated(_WRONG)
        principal, expires_at = self._tokens.principal(credential)
        self._keep(digest, principal, self._generation, RECHECK_S, expires_at)
        return principal

    def _keep(
        self, digest: bytes, principal: Principal, generation: int, fresh_s: float, expires_at: float | None
    ) -> None:
        ends = float("inf") if expires_at is None else expires_at
        if principal.weight != 1.0:
            self.weights[principal.tenant] = principal.weight
        else:
            self.weights.pop(principal.tenant, None)
        self._verified[digest] = _Verified(principal, generation, self._clock.monotonic() + fresh_s, ends)

    def _ask(self, key_id: str) -> KnownKey | None:
        """What the database says of a key. Those who ask for the same key at the same time share one answer."""
        flight = self._flights.get(key_id)
        if flight is not None:
            shared: KnownKey | None = flight.get()
            return shared
        if self._clock.monotonic() < self._rest_until:
            raise DatabaseUnavailable("the database does not answer")
        flight = self._flights[key_id] = AsyncResult()
        try:
            stored = self._directory.find(key_id)
        except BaseException as error:  # whatever ends it, those who wait must know
            flight.set_exception(
                error if isinstance(error, DatabaseUnavailable) else DatabaseUnavailable(_LOST)
            )
            if isinstance(error, DatabaseUnavailable):
                self._away()
            raise
        finally:
            del self._flights[key_id]
        flight.set(stored)
        self.database_up = True
        return stored

    def _away(self) -> None:
        self.database_up = False
        self._rest_until = self._clock.monotonic() + REST_S

    # -- in the background ---------------------------------------------------------------------------------------------

    def poll(self) -> None:
        """Learn whether anything has changed."""
        try:
            self._generation = self._directory.generation()
        except DatabaseUnavailable:
            self._away()
            return
        self.database_up = True
        self._rest_until = 0.0

    def flush_used(self) -> None:
        """Write when keys were last used."""
        used, self._used = self._used, {}
        try:
            self._directory.mark_used(used)
        except DatabaseUnavailable:
            self._used = used | self._used
