"""Who we are to Google: an API key, application default credentials, a key file, or nobody."""

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
from knowalledge.net.http.client import Http, Reply
from knowalledge.net.http.connection import header_lines
from knowalledge.providers.google_rest import Headers

_SCOPE = "https://www.googleapis.com/auth/cloud-platform"
_JSON = {"content-type": "application/json"}
# Renew a token this long before it expires; the old one serves meanwhile.
_AHEAD_S = 300.0
# After a renewal the next is tried no sooner, however it ended: a token server that is down is not stormed.
_PAUSE_S = 2.0
_RENEWAL_S = 60.0


def headers_for(api_key: str, credentials: str, clock: Clock, *, proxy: str = "") -> Headers:
    """The headers of a target. ``credentials``: adc, anonymous, or a key file's path; unused with an API key."""
    if api_key:
        return Fixed({**_JSON, "x-goog-api-key": api_key})
    if credentials == "anonymous":
        return Fixed(_JSON)
    return Token(GoogleAuth(credentials, clock, proxy), clock)


class Source(Protocol):
    """Where tokens come from."""

    def renew(self) -> tuple[dict[str, str], float]:
        """Headers with a new token, and when it ends (seconds since the epoch). Raises ``ProviderError``."""
        ...


class Fixed:
    """Headers that never change."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        self._lines = header_lines(headers)

    def lines(self, timeout: float) -> bytes:  # noqa: ARG002 - the protocol's
        return self._lines

    def refused(self) -> None:
        pass


class GoogleAuth:
    """google-auth, spoken to through our own client, so that it waits in the hub and within a deadline."""

    def __init__(self, credentials: str, clock: Clock, proxy: str = "") -> None:
        # 20 MB and 0.5 s, so only processes that need it pay, and at their start: in a request it would block the hub.
        # What renewing would import by itself is therefore named here too.
        import google.auth.compute_engine  # noqa: PLC0415
        from google.auth.exceptions import GoogleAuthError, TransportError  # noqa: PLC0415
        from google.oauth2 import credentials as user  # noqa: PLC0415
        from google.oauth2 import service_account  # noqa: PLC0415

        self._auth: Any = google.auth
        self._service_account: Any = service_account.Credentials
        self._user: Any = user.Credentials
        self._failure: type[Exception] = GoogleAuthError
        self._unreachable: type[Exception] = TransportError
        self._where = credentials
        self._clock = clock
        self._proxy = proxy
        self._found: Any = None

    def renew(self) -> tuple[dict[str, str], float]:
        """Implements ``Source``. Raises ``ProviderAuth``."""
        try:
            self._found = self._found or self._load()
            self._found.refresh(self._transport)
            headers = dict(_JSON)
            self._found.apply(headers)  # the token, and the project that is charged where the key names one
        except (self._failure, OSError, ValueError) as error:
            raise ProviderAuth(f"no Google credentials ({type(error).__name__})") from error
        expiry: datetime | None = self._found.expiry  # in UTC without saying so
        end = expiry.replace(tzinfo=UTC).timestamp() if expiry else self._clock.now() + 2 * _AHEAD_S
        return {name.lower(): value for name, value in headers.items()}, end

    def _load(self) -> Any:
        if self._where in ("", "adc"):
            return self._auth.default(scopes=[_SCOPE], request=self._transport)[0]
        # By its kind: the other kinds name addresses to ask and programs to run, and belong to ADC alone.
        info = json.loads(Path(self._where).read_bytes())
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
        """google.auth.transport.Request."""
        parts = urlsplit(url)
        # Only the metadata server next door speaks plain HTTP, and no proxy leads to it.
        proxy = self._proxy if parts.scheme == "https" else ""
        http = Http(f"{parts.scheme}://{parts.netloc}", self._clock, proxy=proxy)
        target = parts.path + (f"?{parts.query}" if parts.query else "")
        data = body.encode() if isinstance(body, str) else body or b""
        try:
            return _Response(http.request(method, target, data, header_lines(headers or {}), timeout or 30.0))
        except ProviderError as error:
            raise self._unreachable(error.message) from error
        finally:
            http.close()


class _Response:
    """google.auth.transport.Response."""

    def __init__(self, reply: Reply) -> None:
        self.status = reply.status
        self.headers = reply.headers
        self.data = reply.body


class Token:
    """An OAuth token, renewed by one greenlet at a time, ahead of its end, while the old one still serves."""

    def __init__(self, source: Source, clock: Clock) -> None:
        self._source = source
        self._clock = clock
        self._lines = b""
        self._until = 0.0
        self._not_before = 0.0
        self._failure: ProviderError | None = None  # of the last renewal
        self._flight: Event | None = None  # of the renewal under way

    def lines(self, timeout: float) -> bytes:
        now = self._clock.now()
        if now < self._until - _AHEAD_S:
            return self._lines
        flight = self._flight
        if flight is None and now >= self._not_before:
            flight = self._flight = Event()
            gevent.spawn(self._renew, flight)
        if now < self._until:
            return self._lines
        # Whoever waits shares the one renewal and how it ends.
        if flight is not None and not flight.wait(timeout):
            raise ProviderTimeout("no token from Google in time")
        if self._failure is not None:
            raise type(self._failure)(self._failure.message)
        return self._lines

    def refused(self) -> None:
        """The next call renews, unless one has just done so."""
        if self._clock.now() >= self._not_before:
            self._until = 0.0

    def _renew(self, flight: Event) -> None:
        failure: ProviderError | None = None
        try:
            with gevent.Timeout(_RENEWAL_S, ProviderTimeout("no token from Google in time")):
                headers, until = self._source.renew()
            self._lines, self._until = header_lines(headers), until
        except ProviderError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - a greenlet has no caller: those who wait are told instead
            failure = ProviderAuth(f"no Google credentials ({type(error).__name__})")
        self._failure = failure
        self._not_before = self._clock.now() + _PAUSE_S
        self._flight = None
        flight.set()
