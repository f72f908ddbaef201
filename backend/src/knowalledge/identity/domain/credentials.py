"""Where clients put their keys: every SDK has its own place."""

from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

# A longer one is no key or token of anybody's, in characters.
MAX_CREDENTIAL = 8192
_HEADERS = ("HTTP_X_API_KEY", "HTTP_API_KEY", "HTTP_X_GOOG_API_KEY")  # Anthropic's, Azure's, Google's


def credential_of(environ: Mapping[str, Any]) -> str:
    """The key or token of a WSGI request: ``Authorization: Bearer``, a header of an SDK, or ``?key=``; else empty."""
    field: str = environ.get("HTTP_AUTHORIZATION", "")
    if field[:7].lower() == "bearer ":
        return field[7:].strip()
    for name in _HEADERS:
        if given := environ.get(name):
            return str(given).strip()
    query: str = environ.get("QUERY_STRING", "")
    if "key=" not in query:
        return ""
    return next((unquote_plus(it[4:]) for it in query.split("&") if it.startswith("key=")), "")


def without_key(query: str) -> str:
    """A query string without ``key``, so that it reaches no log, cache or handler."""
    return "&".join(it for it in query.split("&") if not it.startswith("key="))
