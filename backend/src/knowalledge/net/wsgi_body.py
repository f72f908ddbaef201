"""The body of a request, as its head frames it: the one reader of these bytes (RFC 9112, 6 and 7).

Whatever goes wrong while it is read, the connection cannot be read on: nobody knows where the next request begins.
"""

import re
from collections.abc import Callable, Iterator
from io import BufferedReader
from time import monotonic

MAX_CHUNKS = 4096  # tiny chunks cost far more to read than the bytes in them: these take some 20 ms
MAX_CHUNK_LINE = 256
MAX_TRAILERS = 100
# A body may be silent for this long, in seconds; over its whole length it must come at this rate, in bytes a second.
SILENCE_S = 20.0
MIN_RATE = 1000.0
_PIECE = 64 * 1024
_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,15})(?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?\r\n")
_TRAILER = re.compile(rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+:[\t\x20-\x7e\x80-\xff]*\r\n")


class MalformedBody(OSError):
    """The body ended early, came too slowly, or its chunks are malformed."""


class RequestBody:
    """``wsgi.input``. Every read raises ``MalformedBody`` or another OSError if the body cannot be read on."""

    __slots__ = ("_began", "_chunk_left", "_chunks", "_received", "_rfile", "_watch", "before_first", "ended")

    def __init__(self, rfile: BufferedReader, length: int | None, chunked: bool) -> None:
        """``length`` in bytes, None for an absent or chunked body."""
        self._rfile = rfile
        self._chunks = 0 if chunked else -1  # read so far; -1: there are none
        self._chunk_left = 0 if chunked else length or 0  # of the chunk, or of the body
        self._began = 0.0  # monotonic: when the first bytes were waited for
        self._received = 0
        self._watch: Callable[[float], None] | None = None
        self.before_first: Callable[[], None] | None = None  # asks the client for the body
        self.ended = not chunked and not length  # all of it has been read

    def watch(self, watch: Callable[[float], None]) -> None:
        """Have ``watch`` called with the seconds that the next bytes may take, and with 0 when they are there."""
        self._watch = watch

    def read(self, size: int | None = -1) -> bytes:
        """As many bytes as there are, at most ``size``."""
        if self.ended or size == 0:
            return b""
        if self.before_first is not None:
            ask, self.before_first = self.before_first, None
            ask()
        limit = size if size is not None and size > 0 else -1
        try:
            return self._read_length(limit) if self._chunks < 0 else self._read_chunks(limit)
        finally:
            if self._watch is not None:
                self._watch(0.0)

    def readline(self, size: int | None = -1) -> bytes:
        """Up to and with the next newline, at most ``size`` bytes. Slow: PEP 3333 asks for it, nobody here does."""
        line = bytearray()
        while not line.endswith(b"\n") and len(line) != size and (byte := self.read(1)):
            line += byte
        return bytes(line)

    def readlines(self, _: int = -1) -> list[bytes]:
        return list(self)

    def __iter__(self) -> Iterator[bytes]:
        return iter(self.readline, b"")

    def _read_length(self, limit: int) -> bytes:
        data = self._exactly(self._chunk_left if limit < 0 else min(limit, self._chunk_left))
        self._chunk_left -= len(data)
        self.ended = not self._chunk_left
        return data

    def _read_chunks(self, limit: int) -> bytes:
        pieces: list[bytes] = []
        while limit:
            if not self._chunk_left:
                self._chunk_left = self._next_chunk()
                if not self._chunk_left:
                    self._skip_trailers()
                    self.ended = True
                    break
            data = self._exactly(self._chunk_left if limit < 0 else min(limit, self._chunk_left))
            self._chunk_left -= len(data)
            limit = limit if limit < 0 else limit - len(data)
            pieces.append(data)
            if not self._chunk_left and self._line(2) != b"\r\n":
                raise MalformedBody("a chunk is longer than it says")
        return b"".join(pieces)

    def _next_chunk(self) -> int:
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise MalformedBody("the body has too many chunks")
        if self._began and monotonic() - self._began > SILENCE_S + self._received / MIN_RATE:
            raise MalformedBody("the body comes too slowly")
        match = _CHUNK.fullmatch(self._line(MAX_CHUNK_LINE))
        if match is None:
            raise MalformedBody("a chunk's length is malformed")
        return int(match[1], 16)

    def _skip_trailers(self) -> None:
        for _ in range(MAX_TRAILERS):
            line = self._line(MAX_CHUNK_LINE)
            if line == b"\r\n":
                return
            if _TRAILER.fullmatch(line) is None:
                raise MalformedBody("a trailer is malformed")
        raise MalformedBody("the body has too many trailers")

    def _line(self, limit: int) -> bytes:
        if self._watch is not None:
            self._watch(SILENCE_S)
        return self._rfile.readline(limit)

    def _exactly(self, size: int) -> bytes:
        """``size`` bytes. Those that have arrived are read at once, the others as they come."""
        data = self._some(size)
        if len(data) == size:
            return data
        pieces, received = [data], len(data)
        while received < size:
            pieces.append(data := self._some(size - received))
            received += len(data)
        return b"".join(pieces)

    def _some(self, size: int) -> bytes:
        if self._watch is not None:
            self._watch(SILENCE_S)
        self._began = self._began or monotonic()
        data = self._rfile.read1(min(size, _PIECE))
        if not data:
            raise MalformedBody("the body ended early")
        self._received += len(data)
        if len(data) < size and monotonic() - self._began > SILENCE_S + self._received / MIN_RATE:
            raise MalformedBody("the body comes too slowly")
        return data
