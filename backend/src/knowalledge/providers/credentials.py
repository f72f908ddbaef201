"""Authentication at Google: an API key, application default credentials, a key file, or none."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import gevent
from gevent.event import Event

from knowalledge.core.clock import Clock
from knowalledge.core.errors import ProviderAuth, ProviderError, ProviderTimeout
from knowalledge.net.http.client import HttpClient, Response
from knowalledge.net.http.connection import header_lines
from knowalledge.providers.google_rest import AuthHeaders

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_JSON = {"content-type": "application/json"}
# A token is renewed this long before it expires; meanwhile the old one is used.
_RENEW_AHEAD_S = 300.0
# The least time between two renewals, failed ones included: it bounds the load on a token server that is down.
_MIN_INTERVAL_S = 2.0
_RENEWAL_TIMEOUT_S = 60.0


def headers_for(api_key: str, credentials: str, clock: Clock, *, proxy: str = "") -> AuthHeaders:
    """The headers of a target's calls. ``credentials``: adc, anonymous, or a key file's path; unused with a key.

    ``proxy`` is for the token server. Raises ValueError for an API key that cannot be sent as a header.
    """
    if api_key:
        return StaticHeaders({**_JSON, "x-goog-api-key": api_key})
    if credentials == "anonymous":
        return StaticHeaders(_JSON)
    return TokenHeaders(GoogleAuth(credentials, clock, proxy), clock)


class TokenSource(Protocol):
    """Issues OAuth access tokens."""

    def renew(self) -> tuple[dict[str, str], float]:
        """Headers with a new token, and when it expires (seconds since the epoch). Raises ``ProviderError``."""
        ...


class StaticHeaders:
    """Implements ``AuthHeaders``: headers that never change."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._lines = header_lines(headers)

    def lines(self, timeout: float) -> bytes:  # noqa: ARG002 - the protocol's
        return self._lines

    def invalidate(self) -> None:
        """An API key cannot be renewed."""


class GoogleAuth:
    """Implements ``TokenSource`` with google-auth, over our own HTTP client: it waits in the hub, with a deadline."""

    def __init__(self, credentials: str, clock: Clock, proxy: str = "") -> None:
        # Loading takes 20 MB and 0.5 s, so only processes that need it do, and at their start: in a request it would
        # block the hub. That is also why modules are named here that renewing would import by itself.
        import google.auth.compute_engine  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError, TransportError  # noqa: PLC0415
        from google.oauth2 import credentials as user  # noqa: PLC0415
        from google.oauth2 import service_account  # noqa: PLC0415

        self._auth: Any = google.auth
        self._service_account: Any = service_account.Credentials
        self._user: Any = user.Credentials
        self._auth_error: type[Exception] = GoogleAuthError
        self._transport_error: type[Exception] = TransportError
        self._name = credentials
        self._clock = clock
        self._proxy = proxy
        self._credentials: Any = None

    def renew(self) -> tuple[dict[str, str], float]:
        """Implements ``TokenSource``. Raises ``ProviderAuth``."""
        try:
            self._credentials = self._credentials or self._load()
            self._credentials.refresh(self._transport)
            headers = dict(_JSON)
            self._credentials.apply(
                headers
            )  # the token, and the project to charge if the credentials name one
        except (self._auth_error, OSError, ValueError) as error:
            raise ProviderAuth(f"no Google credentials ({type(error).__name__})") from error
        expiry: datetime | None = self._credentials.expiry  # naive, in UTC
        end = expiry.replace(tzinfo=UTC).timestamp() if expiry else self._clock.now() + 2 * _RENEW_AHEAD_S
        return {name.lower(): value for name, value in headers.items()}, end

    def _load(self) -> Any:
        if self._name in ("", "adc"):
            return self._auth.default(scopes=[_SCOPE], request=self._transport)[0]
        # Only two types: the others name URLs to fetch or programs to run, and are accepted through ADC only.
        info = json.loads(Path(self._name).read_bytes())
        kind = info.get("type") if isinstance(info, dict) else None
        if kind == "service_account":
            return self._service_account.from_service_account_info(info, scopes=[_SCOPE])
        if kind == "authorized_user":
            return self._user.from_authorized_user_info(info)
        raise ProviderAuth("the key file is neither a service account's nor a user's")

    def _transport(
        self,
        url: str,
        method: str = "GET",
        body: bytes | str | None = None,
        headers: Mapping[str, str] | None = None,
        timeout: float | None = None,
        **_: object,
    ) -> "_Response":
        """Implements google.auth.transport.Request."""
        parts = urlsplit(url)
        # Only the metadata server of the host speaks plain HTTP, and it is not reachable through a proxy.
        proxy = self._proxy if parts.scheme == "https" else ""
        http = HttpClient(f"{parts.scheme}://{parts.netloc}", self._clock, proxy=proxy)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        data = body.encode() if isinstance(body, str) else body or b""
        try:
            return _Response(http.request(method, target, data, header_lines(headers or {}), timeout or 30.0))
        except ProviderError as error:
            raise self._transport_error(error.message) from error
        finally:
            http.close()


class _Response:
    """Implements google.auth.transport.Response."""

    def __init__(self, response: Response) -> None:
        self.status = response.status
        self.headers = response.headers
        self.data = response.body


class TokenHeaders:
    """Implements ``AuthHeaders`` with an OAuth token. One greenlet renews it, before the old one expires."""

    def __init__(self, source: TokenSource, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._lines = b""
        self._expires_at = 0.0
        self._not_before = 0.0  # the next renewal
        self._error: ProviderError | None = None  # of the last renewal
        self._renewal: Event | None = None  # set when the renewal in progress ends

    def lines(self, timeout: float) -> bytes:
        now = self._clock.now()
        if now < self._expires_at - _RENEW_AHEAD_S:
            return self._lines
        renewal = self._renewal
        if renewal is None and now >= self._not_before:
            renewal = self._renewal = Event()
            gevent.spawn(self._renew, renewal)
        if now < self._expires_at:
            return self._lines
        # All waiting callers share one renewal and its result.
        if renewal is not None and not renewal.wait(timeout):
            raise ProviderTimeout("no token from Google in time")
        if self._error is not None:
            raise type(self._error)(self._error.message)
        return self._lines

    def invalidate(self) -> None:
        """Renew at the next call, unless the token was renewed just now."""
        if self._clock.now() >= self._not_before:
            self._expires_at = 0.0

    def _renew(self, renewal: Event) -> None:
        failure: ProviderError | None = None
        try:
            with gevent.Timeout(_RENEWAL_TIMEOUT_S, ProviderTimeout("no token from Google in time")):
                headers, expires_at = self._source.renew()
            self._lines, self._expires_at = header_lines(headers), expires_at
        except ProviderError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a greenlet has no caller: the waiting ones get the error
            failure = ProviderAuth(f"no Google credentials ({type(error).__name__})")
        self._error = failure
        self._not_before = self._clock.now() + _MIN_INTERVAL_S
        self._renewal = None
        renewal.set()
