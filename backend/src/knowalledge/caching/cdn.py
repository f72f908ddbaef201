"""Purging by tag: our own Varnish, or a CDN's API.

Sources: varnish-modules' xkey as ``deploy/varnish/default.vcl`` uses it; developers.cloudflare.com/api (zones,
purge_cache by tags, at most 100 a call, 30 on older plans); www.fastly.com/documentation/reference/api/purging
(POST /service/ID/purge, at most 256 keys a call).
"""

from collections.abc import Iterator
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from typing import Literal
from urllib.parse import urlsplit

import msgspec

from knowalledge.core.errors import Unavailable

TIMEOUT_S = 5.0
_NOT_CONFIRMED = "the CDN did not confirm the purge"


def cdn_tag(tag: str) -> str:
    """A tag as responses carry it: our ``*`` is ``all`` there."""
    return "all" if tag == "*" else tag


class Varnish:
    """All our Varnish instances. ``soft``: a purged object is still served stale until it has been fetched again."""

    def __init__(self, urls: tuple[str, ...], soft: bool = False) -> None:
        self._urls = urls
        self._header = "xkey-softpurge" if soft else "xkey-purge"

    def purge(self, tags: tuple[str, ...]) -> None:
        failed = 0
        for url in self._urls:  # an instance that is down must not keep the others from being purged
            try:
                _request("PURGE", url, "/", {self._header: " ".join(map(cdn_tag, tags))}, b"")
            except Unavailable:
                failed += 1
        if failed:
            raise Unavailable(_NOT_CONFIRMED)


class Cloudflare:
    """A Cloudflare zone."""

    def __init__(self, zone: str, token: str, url: str = "https://api.cloudflare.com") -> None:
        self._path = f"/client/v4/zones/{zone}/purge_cache"
        self._token, self._url = token, url

    def purge(self, tags: tuple[str, ...]) -> None:
        headers = {"authorization": f"Bearer {self._token}", "content-type": "application/json"}
        for batch in _batches(tags, 30):
            body = msgspec.json.encode({"tags": batch})
            reply = _request("POST", self._url, self._path, headers, body)
            try:
                if not msgspec.json.decode(reply, type=_PurgeReply).success:
                    raise Unavailable(_NOT_CONFIRMED)
            except msgspec.MsgspecError as error:
                raise Unavailable(_NOT_CONFIRMED) from error


class _PurgeReply(msgspec.Struct):
    success: bool


class Fastly:
    """A Fastly service."""

    def __init__(
        self, service: str, token: str, url: str = "https://api.fastly.com", soft: bool = False
    ) -> None:
        self._path = f"/service/{service}/purge"
        self._headers = {"fastly-key": token, "accept": "application/json"}
        if soft:
            self._headers["fastly-soft-purge"] = "1"
        self._url = url

    def purge(self, tags: tuple[str, ...]) -> None:
        for batch in _batches(tags, 256):
            _request("POST", self._url, self._path, {**self._headers, "surrogate-key": " ".join(batch)}, b"")


def _batches(tags: tuple[str, ...], size: int) -> Iterator[list[str]]:
    names = [cdn_tag(tag) for tag in tags]
    for start in range(0, len(names), size):
        yield names[start : start + size]


def _request(
    method: Literal["PURGE", "POST"], url: str, path: str, headers: dict[str, str], body: bytes
) -> bytes:
    """The body of the response. Raises ``Unavailable`` for anything but a 2xx."""
    parts = urlsplit(url)
    kind = HTTPSConnection if parts.scheme == "https" else HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=TIMEOUT_S)
    try:
        connection.request(method, parts.path.rstrip("/") + path, body, headers)
        response = connection.getresponse()
        content = response.read(64 * 1024)
    except (OSError, HTTPException, ValueError) as error:
        raise Unavailable(_NOT_CONFIRMED) from error
    finally:
        connection.close()
    if not 200 <= response.status < 300:
        raise Unavailable(_NOT_CONFIRMED)
    return content
