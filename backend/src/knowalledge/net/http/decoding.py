"""Content codings of responses, undone piece by piece and never beyond a bound."""

from collections.abc import Mapping
from zlib import MAX_WBITS, decompressobj
from zlib import error as ZlibError

from knowalledge.core.errors import ProviderGarbage

# A body may grow to so many times what came over the wire, once it is above FREE bytes; text reaches some 20 times.
MAX_RATIO = 100
FREE = 1024 * 1024


class Decompressor:
    """gzip and zlib. A small body may expand to gigabytes: it is refused where it grows too fast."""

    def __init__(self) -> None:
        self._object = decompressobj(MAX_WBITS | 32)  # 32: gzip or zlib, by its header
        self._received = self._produced = 0

    def __call__(self, data: bytes | bytearray) -> bytes:
        """What these bytes expand to. Raises ``ProviderGarbage``."""
        self._received += len(data)
        room = max(FREE, self._received * MAX_RATIO) - self._produced
        try:
            plain = self._object.decompress(data, max(1, room + 1))
        except ZlibError as error:
            raise ProviderGarbage("the provider's response does not match its content-encoding") from error
        self._produced += len(plain)
        if len(plain) > room:
            raise ProviderGarbage("the provider's response expands too far")
        return plain

    @property
    def ended(self) -> bool:
        return self._object.eof


def decompressor(fields: Mapping[str, str]) -> Decompressor | None:
    """What undoes a response's coding; None if there is nothing to undo. Raises ``ProviderGarbage``."""
    encoding = fields.get("content-encoding")
    if encoding is None:
        return None
    encoding = encoding.lower()
    if encoding in ("gzip", "x-gzip", "deflate"):
        return Decompressor()
    if encoding in ("", "identity"):
        return None
    raise ProviderGarbage("the provider's response has an unsupported content-encoding")
