"""A strict parser for the head of a request, in place of pywsgi's.

pywsgi reads heads leniently. A proxy in front may read the same bytes differently; then the two disagree on where a
request ends, and one caller's bytes become part of another's request (request smuggling). This parser accepts what
RFC 9112 demands of a server and rejects everything else.
"""

import re
from collections.abc import Iterator
from typing import BinaryIO

MAX_LINE = 8 * 1024  # bytes of a request line
MAX_HEAD = 64 * 1024
MAX_FIELDS = 100
_NAME = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_CONTROL = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_LENGTH = re.compile(r"[0-9]{1,15}")
_LINE = re.compile(rb"([!#$%&'*+\-.^_`|~0-9A-Za-z]{1,32}) ([\x21\x22\x24-\x7e\x80-\xff]+) HTTP/1\.([01])\r\n")
_OTHER_VERSION = re.compile(rb"[^ ]+ [^ ]+ HTTP/[0-9](?:\.[0-9])?\r\n")
_ABSOLUTE = re.compile(rb"https?://([^/?@]+)(/[^?]*)?(\?.*)?", re.IGNORECASE)
# A name or address, and a port (RFC 3986, 3.2.2); empty where a request has no authority.
_AUTHORITY = re.compile(
    r"(?:(?:[A-Za-z0-9\-._~!$&'()*+,;=%]*|\[[0-9A-Fa-f:.]+(?:%25[A-Za-z0-9._~-]+)?\])(?::[0-9]{0,5})?)"
)
# With two different values of these, two parsers would read two different requests.
_SINGLE = frozenset(("content-length", "transfer-encoding", "host", "content-type"))


class MalformedRequest(ValueError):
    """The bytes are no request that this server takes: it answers with ``status`` once, and ends the connection.

    The reason is a fixed text, without a byte that a caller has sent.
    """

    def __init__(self, reason: str, status: str = "400 Bad Request") -> None:
        super().__init__(reason)
        self.status = status


def parse_request_line(line: bytes) -> tuple[str, str, str, str | None]:
    """Method, path with query, version, and the authority of a target in absolute form, else None (RFC 9112, 3).

    The path is ``*`` for ``OPTIONS *``. Raises ``MalformedRequest``; the line ends in CRLF.
    """
    match = _LINE.fullmatch(line)
    if match is None:
        if _OTHER_VERSION.fullmatch(line) is not None:
            raise MalformedRequest("the version is not HTTP/1.1", "505 HTTP Version Not Supported")
        raise MalformedRequest("the first line is not a request line")
    method, target = match[1].decode("ascii"), match[2]
    version = "HTTP/1.1" if match[3] == b"1" else "HTTP/1.0"
    if target[0] == 0x2F:  # "/"
        return method, target.decode("latin-1"), version, None
    if target == b"*" and method == "OPTIONS":
        return method, "*", version, None
    absolute = _ABSOLUTE.fullmatch(target)
    if absolute is None:
        raise MalformedRequest("the target is neither a path nor a URL")
    host = absolute[1].decode("latin-1")
    if _AUTHORITY.fullmatch(host) is None:
        raise MalformedRequest("the target's host is not a host")
    path, query = absolute[2] or b"", absolute[3] or b""
    if not path:
        path = b"*" if method == "OPTIONS" and not query else b"/"
    return method, (path + query).decode("latin-1"), version, host


class RequestHead:
    """The header fields of a request."""

    __slots__ = ("_first", "pairs")

    def __init__(self, rfile: BinaryIO, version: str = "HTTP/1.1") -> None:
        """Read up to the blank line. Raises ``MalformedRequest``."""
        self.pairs: list[tuple[str, str]] = []
        self._first: dict[str, str] = {}
        size = 0
        while (line := rfile.readline(MAX_HEAD + 1)) != b"\r\n":
            size += len(line)
            if size > MAX_HEAD or len(self.pairs) >= MAX_FIELDS:
                raise MalformedRequest("the head is too large", "431 Request Header Fields Too Large")
            if not line.endswith(b"\r\n"):
                raise MalformedRequest("a line of the head does not end in CRLF")
            name, colon, value = line[:-2].partition(b":")
            value = value.strip(b" \t")
            if not colon or _NAME.fullmatch(name) is None or _CONTROL.search(value):
                raise MalformedRequest("a line of the head is not a header field")
            self._add(name.decode("ascii").lower(), value.decode("latin-1"))
        self._check_framing(version)

    def _add(self, name: str, value: str) -> None:
        if name in self._first:
            if name in _SINGLE:
                raise MalformedRequest("a field that must be single occurs twice")
        else:
            self._first[name] = value
        self.pairs.append((name, value))

    def _check_framing(self, version: str) -> None:
        first = self._first
        length, coding, host = first.get("content-length"), first.get("transfer-encoding"), first.get("host")
        if coding is not None:
            # HTTP/1.0 has no codings: a proxy of that version passes one on without knowing where the body ends.
            if length is not None or coding.lower() != "chunked" or version != "HTTP/1.1":
                raise MalformedRequest("the length of the body is ambiguous")
        elif length is not None and _LENGTH.fullmatch(length) is None:
            raise MalformedRequest("content-length is not a length")
        if host is None:
            if version == "HTTP/1.1":
                raise MalformedRequest("there is no Host")
        elif _AUTHORITY.fullmatch(host) is None:
            raise MalformedRequest("Host is not a host")

    def get(self, name: str, default: str | None = None) -> str | None:
        """The first value of a field."""
        return self._first.get(name, default)

    @property
    def content_length(self) -> int | None:
        """The body's length in bytes, None if the head does not say."""
        length = self._first.get("content-length")
        return None if length is None else int(length)

    @property
    def chunked(self) -> bool:
        return "transfer-encoding" in self._first

    def keeps_alive(self, version: str) -> bool:
        """Whether the client lets the connection live on after this request (RFC 9112, 9.3)."""
        field = self._first.get("connection")
        if field is None:
            return version == "HTTP/1.1"
        options = [it.strip() for it in field.lower().split(",")]
        return "close" not in options and (version == "HTTP/1.1" or "keep-alive" in options)

    def environ(self) -> Iterator[tuple[str, str]]:
        """The fields under their WSGI names, without those that contain an underscore: they would pass for others."""
        for name, value in self.pairs:
            if "_" not in name and name not in ("content-type", "content-length"):
                yield "HTTP_" + name.replace("-", "_").upper(), value
