"""Implements ``Tokens`` with PyJWT: signatures by an issuer's published keys, or by one secret.

Imported only where tokens are taken.
"""

from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from gevent.lock import BoundedSemaphore
from jwt import PyJWK, PyJWT
from jwt.exceptions import PyJWTError
from msgspec import Struct

from knowalledge.core.clock import Clock
from knowalledge.core.context import Principal
from knowalledge.core.errors import Unauthenticated, Unavailable
from knowalledge.identity.domain.claims import WRONG, Claims, header_of, principal_of

# Published keys are fetched again after this, in seconds.
KEYS_LIFE_S = 300.0
# A token with an unknown key asks for them sooner, but not sooner than this, in seconds.
KEYS_REST_S = 10.0
# While the issuer's address is away its keys count for so long, in seconds.
KEYS_GRACE_S = 3600.0
MAX_KEYS = 100
_JWT = PyJWT({"enforce_minimum_key_length": True})
_REQUIRED = ["exp", "iss", "aud"]
# The kinds of keys that an algorithm works with: else a public key might be taken for a secret.
_KINDS = {"RS": "RSA", "PS": "RSA", "ES": "EC", "Ed": "OKP"}


class PublishedKey(Struct, frozen=True):
    """One public key of an issuer."""

    key: Any  # as cryptography has it
    kind: str  # RSA, EC or OKP
    algorithm: str | None  # the only one that it may be used with; None: any of its kind


class Keys:
    """An issuer's public keys, by id, fetched again when they are old or when a new one is used."""

    def __init__(self, fetch: Callable[[], bytes], clock: Clock) -> None:
        """``fetch`` gives the JWKS document (RFC 7517), and raises ``Unavailable``."""
        self._fetch = fetch
        self._clock = clock
        self._keys: Mapping[str, PublishedKey] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._lock = BoundedSemaphore()

    def find(self, key_id: str | None) -> PublishedKey | None:
        """The key of an id. Without one: the only key, if there is only one. Raises ``Unavailable``."""
        age = self._clock.monotonic() - self._fetched_at
        key = self._known(key_id)
        if age >= KEYS_LIFE_S or key is None:
            self._refresh(age)
            key = self._known(key_id)
        return key

    def _known(self, key_id: str | None) -> PublishedKey | None:
        if key_id is None and len(self._keys) == 1:
            return next(iter(self._keys.values()))
        return self._keys.get(key_id) if key_id is not None else None

    def _refresh(self, age: float) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if now - self._tried_at < KEYS_REST_S:
                if age >= KEYS_GRACE_S:
                    raise Unavailable("the issuer of tokens does not publish its keys")
                return
            self._tried_at = now
            try:
                self._keys = _keys_of(self._fetch())
            except Unavailable:
                if age >= KEYS_GRACE_S:
                    self._keys = {}
                    raise
            else:
                self._fetched_at = now


def _keys_of(document: bytes) -> Mapping[str, PublishedKey]:
    """The keys that signatures can be checked with; others that a document may hold are left out."""
    try:
        listed = msgspec.json.decode(document, type=dict[str, Any])["keys"]
    except (msgspec.MsgspecError, KeyError) as error:
        raise Unavailable("the issuer of tokens does not publish its keys") from error
    published: dict[str, PublishedKey] = {}
    for number, it in enumerate(listed[:MAX_KEYS] if isinstance(listed, list) else ()):
        if not isinstance(it, dict) or it.get("use", "sig") != "sig" or it.get("kty") not in _KINDS.values():
            continue
        try:
            key = PublishedKey(PyJWK(it).key, it["kty"], it.get("alg"))
        except PyJWTError:
            continue
        published[str(it.get("kid", f"#{number}"))] = key
    return published


class JwtTokens:
    """Implements ``Tokens``."""

    def __init__(
        self,
        key_of: Callable[[Mapping[str, Any]], Any],
        algorithms: tuple[str, ...],
        issuer: str,
        audience: str,
        leeway_s: float,
        claims: Claims,
    ) -> None:
        """``key_of`` gives the key for a token's header, or None."""
        self._key_of = key_of
        self._algorithms = algorithms
        self._issuer, self._audience = issuer, audience
        self._leeway_s = leeway_s
        self._claims = claims

    def principal(self, token: str) -> tuple[Principal, float]:
        header = header_of(token)
        if header["alg"] not in self._algorithms:
            raise Unauthenticated(WRONG)
        key = self._key_of(header)
        if key is None:
            raise Unauthenticated(WRONG)
        try:
            claims = _JWT.decode(
                token,
                key,
                algorithms=[header["alg"]],
                issuer=self._issuer,
                audience=self._audience,
                leeway=self._leeway_s,
                options={"require": _REQUIRED},
            )
        except (PyJWTError, ValueError, TypeError) as error:
            raise Unauthenticated(WRONG) from error
        return principal_of(claims, self._claims), float(claims["exp"]) + self._leeway_s


def published(keys: Keys) -> Callable[[Mapping[str, Any]], Any]:
    """Keys by the ``kid`` of a header, if their kind fits its algorithm."""

    def key_of(header: Mapping[str, Any]) -> Any:
        key_id = header.get("kid")
        if key_id is not None and not isinstance(key_id, str):
            return None
        published = keys.find(key_id)
        if published is None or published.kind != _KINDS.get(header["alg"][:2]):
            return None
        return published.key if published.algorithm in (None, header["alg"]) else None

    return key_of
