"""Who we are to Google: an API key, application default credentials, a service account file, or nobody."""

from collections.abc import Callable
from typing import Any

from gevent.lock import BoundedSemaphore

from knowalledge.domain.errors import ProviderAuth
from knowalledge.domain.ports import Clock

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_JSON = {"content-type": "application/json"}
# Renew a token this long before it expires; the old one serves the others meanwhile.
_AHEAD_S = 300.0


def header_source(api_key: str, credentials: str, clock: Clock) -> Callable[[], dict[str, str]]:
    """A function that gives the headers of a request. ``credentials``: adc, anonymous, or a key file's path."""
    if api_key:
        headers = {**_JSON, "x-goog-api-key": api_key}
        return lambda: headers
    if credentials == "anonymous":
        return lambda: _JSON
    return _Token(credentials, clock).headers


class _Token:
    """An OAuth token, renewed ahead of its end by one greenlet at a time."""

    def __init__(self, credentials: str, clock: Clock) -> None:
        self._where = credentials
        self._clock = clock
        self._lock = BoundedSemaphore()
        self._found: Any = None
        self._headers: dict[str, str] = {}
        self._until = 0.0

    def headers(self) -> dict[str, str]:
        left = self._until - self._clock.now()
        # With a usable token in hand only one greenlet renews; without one, all wait for it.
        if left < _AHEAD_S and self._lock.acquire(blocking=left <= 0):
            try:
                if self._until - self._clock.now() < _AHEAD_S:
                    self._renew()
            finally:
                self._lock.release()
        return self._headers

    def _renew(self) -> None:
        # google-auth takes 12 MB and 0.2 s: only processes that need it pay.
        import google.auth  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError  # noqa: PLC0415
        from google.auth.transport.requests import Request  # noqa: PLC0415

        try:
            if self._found is None:
                if self._where in ("", "adc"):
                    self._found, _ = google.auth.default(scopes=[_SCOPE])
                else:
                    load: Any = google.auth.load_credentials_from_file
                    self._found, _ = load(self._where, scopes=[_SCOPE])
            self._found.refresh(Request())
        except (GoogleAuthError, OSError) as error:
            raise ProviderAuth(f"no Google credentials ({type(error).__name__})") from error
        expiry = self._found.expiry
        self._until = expiry.timestamp() if expiry is not None and expiry.tzinfo else self._clock.now() + 1800
        self._headers = {**_JSON, "authorization": f"Bearer {self._found.token}"}
