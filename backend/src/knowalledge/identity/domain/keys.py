"""API keys as text: ``kn-ID-SECRET``, base 32 in lower case.

``ID`` finds the key in the database and may be shown. ``SECRET`` ends in a code that only the holder of
``auth.secret`` can make: what this gateway has never made is refused without asking the database.
"""

import hmac
import re
from base64 import b32encode

from msgspec import Struct

PREFIX = "kn"
ID_BYTES, SECRET_BYTES, CODE_BYTES = 10, 20, 5  # 16, 32 and 8 characters
_TEXT = re.compile(r"kn-([a-z2-7]{16})-([a-z2-7]{32})([a-z2-7]{8})")


class NewKey(Struct, frozen=True):
    """A key that has just been made; ``text`` is shown once and kept nowhere."""

    id: str
    text: str
    digest: bytes


def make(secret: bytes, randomness: bytes) -> NewKey:
    """A key of ``ID_BYTES + SECRET_BYTES`` random bytes; ``secret`` is ``auth.secret``."""
    key_id, inner = _base32(randomness[:ID_BYTES]), _base32(randomness[ID_BYTES : ID_BYTES + SECRET_BYTES])
    text = f"{PREFIX}-{key_id}-{inner}{_code(secret, key_id, inner)}"
    return NewKey(key_id, text, digest(secret, text))


def id_of(secret: bytes, text: str) -> str | None:
    """The id of a key that was made with this secret, whether it still counts or not; else None."""
    match = _TEXT.fullmatch(text)
    if match is None or not hmac.compare_digest(_code(secret, match[1], match[2]), match[3]):
        return None
    return match[1]


def digest(secret: bytes, text: str) -> bytes:
    """What is stored of a key: it is of no use without the secret."""
    return hmac.digest(secret, text.encode("utf-8", "surrogateescape"), "sha256")


def _code(secret: bytes, key_id: str, inner: str) -> str:
    return _base32(hmac.digest(secret, f"code:{key_id}:{inner}".encode(), "sha256")[:CODE_BYTES])


def _base32(data: bytes) -> str:
    return b32encode(data).decode().lower()
